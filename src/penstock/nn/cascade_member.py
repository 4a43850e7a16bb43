"""One member of a cascade as a network of its own, for whoever wants its answers, or its speed, alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from penstock.detect.recipe import DEFAULT
from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.nn.cascade import Cascade
from penstock.nn.checkpoint import Checkpoint

FIRST, SECOND = MEMBERS = ("first", "second")


def member_checkpoint(checkpoint: Checkpoint, member: str) -> Checkpoint:
    """The checkpoint of one member, without detector and figures, which are those of both together.

    Args:
        checkpoint: of a cascade.
        member: ``first``, which answers every image, or ``second``, which answers those of which the first is unsure.

    Raises:
        InvalidArgumentError: there is no such member.
        UnsupportedError: the network is no cascade.
    """
    if member not in MEMBERS:
        raise InvalidArgumentError(f"no member {member!r}; there are {' and '.join(MEMBERS)}")
    network = checkpoint.network
    if not isinstance(network, Cascade):
        raise UnsupportedError(f"the network is no cascade, so it has no {member} member: leave member out")
    return replace(
        checkpoint,
        members=(checkpoint.members[MEMBERS.index(member)],),
        network=network.first if member == FIRST else network.second,
        detector={},
        detector_name=DEFAULT,
        calibration=np.zeros(0),
        config={**checkpoint.config, "member": member},
        figures={},
    )
