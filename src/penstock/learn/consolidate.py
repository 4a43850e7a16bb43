"""A whole consolidation run: from a decoupled network to prototypes, routers, detector, figures and checkpoint.

The run folder is that of `penstock.learn.runs`, with Lightning's checkpoints and logs in ``tune/`` and the groups that
clustering found in ``groups.npz``, so that a resumed run goes on with the same ones.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from penstock.data import Splits, load
from penstock.data.splitting import at_most
from penstock.detect.calibration import conformal_rank
from penstock.errors import ConfigurationError
from penstock.files import write_atomic
from penstock.learn import runs
from penstock.learn.batches import Batches
from penstock.learn.clustering import Prototypes, find_prototypes
from penstock.learn.consolidate_config import ConsolidateConfig
from penstock.learn.consolidating import UNGROUPED, ConsolidateTraining
from penstock.learn.process import check_devices
from penstock.learn.runs import Say
from penstock.learn.training import Distillation, fit
from penstock.nn.assembly import Member
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, load_source
from penstock.nn.inference import answer
from penstock.nn.prototypes import (
    ConsolidatedNetwork,
    PrototypeConfig,
    attach_prototypes,
    set_prototypes,
    stages_by_size,
)
from penstock.nn.static import compact, write_back
from penstock.nn.surgery import GatedNetwork

GROUPS_FILE = "groups.npz"
CLUSTER_IMAGES = 20_000  # training images that prototypes are made from, at most


def consolidate(
    source: str,
    config: ConsolidateConfig,
    out: Path,
    *,
    data: Path | None = None,
    progress: bool = True,
    devices: int = 1,
    say: Say = lambda _: None,
) -> Checkpoint:
    """Give a decoupled network prototypes, or go on with it, and leave the result in ``out``.

    Args:
        source: run folder, checkpoint file or ``zoo:NAME`` of a decoupled network.
        config: what to do.
        out: run folder; made if it is not there.
        data: folder of the data set; by default what ``PENSTOCK_DATA`` says.
        progress: show progress bars.
        devices: how many GPUs, or processes where there is none, train together.
        say: told what is going on, in short lines.

    Raises:
        ConfigurationError: the folder holds a run with another configuration, the source is consolidated already, or
            the budget cannot be met.
        InvalidArgumentError: there are not so many devices, a batch is too small for them, or the calibration images
            are too few for the rate.
        NotFoundError: the source, the data set or the teacher's weights are not there.
    """
    start, origin = load_source(source)
    about = config.to_json() | {"source": origin}
    if runs.finished(out, about, CHECKPOINT_FILE, say):
        return load_checkpoint(out / CHECKPOINT_FILE)
    gated, budget = _gated(start, source), _budget(config, start, source)
    data_name = runs.trained_on(start, source)
    splits = load(data_name, folder=data)
    _check(config, splits, devices)
    batches = runs.training_batches(
        splits, data_name, size=config.tune.batch_size, seed=config.seed, views=config.views
    )
    taught = runs.distillation(config, start.dense, batches, data)
    say(f"{config.count} prototypes a stage for {budget:.0%} of the MACs")
    network = _attach(gated, config)
    found = _prototypes(network, gated, splits, config, budget, out / GROUPS_FILE)
    # A budget that cannot be met is known by now: from here on the folder is this configuration's.
    runs.claim(out, about)
    _keep(found, out / GROUPS_FILE)
    training = _training(network, found, config, budget, batches, taught)
    validation = Batches(splits.validation, 500)
    fit(training, validation, out / "tune", precision=config.precision, progress=progress, devices=devices)
    if training.consolidated is not network:
        write_back(training.consolidated, network)
    return runs.finish(
        out,
        splits,
        network,
        start.dense,
        backbone=start.backbone,
        members=(Member(gate=start.members[0].gate, prototypes=network.config),),
        config=about | {"data": data_name, "budget": budget},
        fpr=config.fpr,
        budget=budget,
        say=say,
    )


def _gated(start: Checkpoint, source: str) -> GatedNetwork:
    if not isinstance(start.network, GatedNetwork) or isinstance(start.network, ConsolidatedNetwork):
        raise ConfigurationError(
            f"{source} is consolidated already: name the decoupled network that it came from"
        )
    if any(layer.observes for layer in start.network.layout.layers):
        raise ConfigurationError(f"{source} has observers: name the decoupled network that they were put on")
    return start.network


def _budget(config: ConsolidateConfig, start: Checkpoint, source: str) -> float:
    budget = config.budget if config.budget is not None else runs.budget_of(start.config)
    if budget is None:
        raise ConfigurationError(f"{source} was trained without a budget: give one")
    return float(budget)


def _check(config: ConsolidateConfig, splits: Splits, devices: int) -> None:
    """Refuse now what would fail after hours."""
    conformal_rank(len(splits.calibration), config.fpr)
    check_devices(devices, min(config.tune.batch_size, len(splits.train)))


def _attach(gated: GatedNetwork, config: ConsolidateConfig) -> ConsolidatedNetwork:
    shape = PrototypeConfig(
        count=config.count,
        stages=stages_by_size(gated),
        own_norms=config.own_norms,
        hidden=config.hidden,
    )
    torch.manual_seed(config.seed)
    return attach_prototypes(gated, shape)


def _prototypes(
    network: ConsolidatedNetwork,
    start: GatedNetwork,
    splits: Splits,
    config: ConsolidateConfig,
    budget: float,
    file: Path,
) -> Prototypes:
    """What the run found when it began, or what is found now."""
    if file.exists():
        with np.load(file) as arrays:
            groups, *bits = (arrays[name] for name in arrays.files)
        return Prototypes(tuple(bits), groups)
    rows = at_most(splits.train.labels, CLUSTER_IMAGES, config.seed)
    found = find_prototypes(
        answer(start, splits.train.images[rows]),
        network.layout,
        network.config.stages,
        config.count,
        budget=budget,
        grouping=config.grouping,
        spread=config.spread,
        evenness=config.evenness,
        align=config.align,
        seed=config.seed,
    )
    groups = np.full((len(splits.train), len(found.bits)), UNGROUPED)
    groups[rows] = found.groups
    return replace(found, groups=groups)


def _keep(found: Prototypes, file: Path) -> None:
    if not file.exists():
        content = io.BytesIO()
        np.savez_compressed(content, found.groups, *found.bits)
        write_atomic(file, content.getvalue())


def _training(
    network: ConsolidatedNetwork,
    found: Prototypes,
    config: ConsolidateConfig,
    budget: float,
    batches: Batches,
    taught: Distillation | None,
) -> ConsolidateTraining:
    """The fine-tuning of a network, which gets its prototypes, or of the smaller one that does the same."""
    set_prototypes(network, [torch.from_numpy(bits).float() for bits in found.bits])
    # One prototype is trained at its own cost; several share each batch, so each layer computes all of its filters.
    trained = compact(network) if config.count == 1 else network
    groups = torch.from_numpy(found.groups)
    return ConsolidateTraining(trained, groups, config, budget, batches, batches.classes, taught)
