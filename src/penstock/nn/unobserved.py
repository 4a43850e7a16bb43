"""A network without its observers, for whoever wants its answers and no flags."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from penstock.detect.recipe import DEFAULT
from penstock.errors import UnsupportedError
from penstock.nn.assembly import assemble
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.observers import OBSERVERS


def unobserved_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as it was before it was observed: the same answers, a shorter path, and no detector.

    Args:
        checkpoint: with observers or without.

    Raises:
        UnsupportedError: it is a dense network, which is nothing without them but itself.
    """
    if all(member.observers is None for member in checkpoint.members):
        return checkpoint
    if len(checkpoint.members) == 1 and checkpoint.members[0].gate is None:
        raise UnsupportedError("without its observers this is the dense network: export that, with --dense")
    members = tuple(replace(member, observers=None) for member in checkpoint.members)
    network = assemble(checkpoint.dense, torch.zeros(1, *checkpoint.input_shape), members)
    kept = {
        name: value for name, value in checkpoint.network.state_dict().items() if f"{OBSERVERS}." not in name
    }
    network.load_state_dict({name: kept[name] for name in network.state_dict()})
    return replace(
        checkpoint,
        members=members,
        network=network.eval(),
        detector={},
        detector_name=DEFAULT,
        calibration=np.zeros(0),
    )
