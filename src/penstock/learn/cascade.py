"""A cascade run: two finished networks, the threshold between them, detector, figures and checkpoint.

Nothing is trained. The threshold is set on the calibration images, which neither network has learnt from or been chosen
by: on images that were learnt from a network is surer than it will be.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from penstock.data import load
from penstock.detect.calibration import conformal_rank
from penstock.errors import ConfigurationError
from penstock.learn import runs
from penstock.learn.config import check_budget
from penstock.learn.runs import Say
from penstock.nn.assembly import Member
from penstock.nn.cascade import Cascade, confidence, threshold_for
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, load_source
from penstock.nn.gates import GateConfig
from penstock.nn.inference import answer
from penstock.nn.prototypes import PrototypeConfig, attach_prototypes, stages_by_size
from penstock.nn.surgery import attach_gates

BLEND = 0.1  # found on one ResNet-20, and kept for all networks


def cascade(
    first: str,
    second: str | None,
    out: Path,
    *,
    budget: float,
    blend: float = BLEND,
    fpr: float = 0.05,
    data: Path | None = None,
    say: Say = lambda _: None,
) -> Checkpoint:
    """Put two networks in a row, and leave the result in ``out``.

    Args:
        first: run folder, checkpoint file or ``zoo:NAME`` of the network that answers every input.
        second: of the one that answers what the first is not sure of; ``None``: the dense network that the first was
            made from.
        out: run folder; made if it is not there.
        budget: share of the dense MACs that the images may cost on average.
        blend: weight of the first network's logits beside those of the second.
        fpr: false-positive rate that the detector is calibrated for.
        data: folder of the data set; by default what ``PENSTOCK_DATA`` says.
        say: told what is going on, in short lines.

    Raises:
        ConfigurationError: the folder holds another run, the two networks do not belong together, the budget is no
            share of the dense MACs, or the blend no weight.
        InvalidArgumentError: the first network alone costs more than the budget, or the calibration images are too
            few for the rate.
        NotFoundError: a source or the data set is not there.
    """
    check_budget(budget)
    if not 0 <= blend < math.inf:
        raise ConfigurationError(f"blend is {blend}; a weight is 0 or more")
    small, small_origin = load_source(first)
    large, large_origin = (_whole(small), None) if second is None else load_source(second)
    data_name = runs.trained_on(small, first)
    about = {
        "first": small_origin,
        "second": large_origin,
        "budget": budget,
        "blend": blend,
        "fpr": fpr,
        "data": data_name,
    }
    if runs.finished(out, about, CHECKPOINT_FILE, say):
        return load_checkpoint(out / CHECKPOINT_FILE)
    _refuse_strangers(small, large, first, second or first)
    splits = load(data_name, folder=data)
    conformal_rank(len(splits.calibration), fpr)
    say(f"setting the threshold on {len(splits.calibration)} images")
    own, other = (answer(each.network, splits.calibration.images) for each in (small, large))
    threshold = threshold_for(
        confidence(torch.from_numpy(own.logits)),
        torch.from_numpy(own.active_macs),
        torch.from_numpy(other.active_macs),
        budget,
    )
    network = Cascade(small.network, large.network, threshold, blend)
    runs.claim(out, about)
    return runs.finish(
        out,
        splits,
        network,
        large.dense,
        backbone=large.backbone,
        members=(*small.members, *large.members),
        config=about,
        fpr=fpr,
        budget=budget,
        remedy="these are harder than the calibration images that the threshold was set on: ask for a smaller budget",
        say=say,
    )


def _whole(small: Checkpoint) -> Checkpoint:
    """The dense network of a checkpoint, as a single path on which every filter is open."""
    gated = attach_gates(small.dense, torch.zeros(1, *small.input_shape))
    shape = PrototypeConfig(count=1, stages=stages_by_size(gated))
    member = Member(gate=GateConfig(), prototypes=shape)
    return replace(small, members=(member,), network=attach_prototypes(gated, shape).eval())


def _refuse_strangers(small: Checkpoint, large: Checkpoint, first: str, second: str) -> None:
    for source, each in ((first, small), (second, large)):
        if len(each.members) != 1:
            raise ConfigurationError(f"{source} is a cascade already: name what it was made of")
    for name in ("backbone", "class_names", "input_shape"):
        own, other = getattr(small, name), getattr(large, name)
        if own != other:
            raise ConfigurationError(f"{first} and {second} differ in {name}: {own} and {other}")
    own, other = runs.trained_on(small, first), runs.trained_on(large, second)
    if own != other:
        raise ConfigurationError(
            f"{first} was trained on {own} and {second} on {other}: take the same data set"
        )
