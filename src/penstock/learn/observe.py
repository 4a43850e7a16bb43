"""A whole observation run: a finished network gets observers, and with them a detector that has something to see.

The network's answers stay what they are. Nothing is resumed: on 20,000 small images it is a matter of minutes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from penstock.data import load
from penstock.data.splitting import at_most
from penstock.detect.calibration import conformal_rank
from penstock.detect.recipe import OF_OBSERVERS, Recipe
from penstock.errors import ConfigurationError
from penstock.learn import runs
from penstock.learn.observe_config import ObserveConfig
from penstock.learn.observing import teach
from penstock.learn.runs import Say
from penstock.nn.assembly import Member
from penstock.nn.cascade import Cascade
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint, load_source
from penstock.nn.observers import attach_observers, observers_of, unruled
from penstock.nn.path_network import PathNetwork
from penstock.nn.surgery import GatedNetwork


def observe(
    source: str,
    config: ObserveConfig,
    out: Path,
    *,
    dense: bool = False,
    data: Path | None = None,
    say: Say = lambda _: None,
) -> Checkpoint:
    """Give a finished network observers, and leave the result in ``out``.

    Args:
        source: run folder, checkpoint file or ``zoo:NAME``.
        config: what to do.
        out: run folder; made if it is not there.
        dense: observe the dense network that the source was made from, in the place of the source's own.
        data: folder of the data set; by default what ``PENSTOCK_DATA`` says.
        say: told what is going on, in short lines.

    Raises:
        ConfigurationError: the folder holds another run, or the source has observers.
        InvalidArgumentError: the calibration images, half of which scores are ranked by, are too few for the rate.
        NotFoundError: the source or the data set is not there.
    """
    start, origin = load_source(source)
    data_name = runs.trained_on(start, source)
    about = config.to_json() | {"source": origin, "dense": dense, "data": data_name}
    if runs.finished(out, about, CHECKPOINT_FILE, say):
        return load_checkpoint(out / CHECKPOINT_FILE)
    if any(layer.observes for layer in start.network.layout.layers):
        raise ConfigurationError(f"{source} has observers already: name the run that they were put on")
    splits = load(data_name, folder=data)
    ranks = Recipe.parse(OF_OBSERVERS).ranking(len(splits.calibration))
    conformal_rank(int((~ranks).sum()), config.fpr)
    watched, network, members = _observed(start, config, dense)
    seen = splits.train.take(at_most(splits.train.labels, config.images, config.seed))
    say(f"observing {len(seen)} images")
    told = teach(
        watched,
        observers_of(watched),
        seen.images,
        seen.labels,
        len(splits.class_names),
        config,
    )
    say("the observers tell the class of " + ", ".join(f"{share:.0%}" for share in told) + " of these images")
    runs.claim(out, about)
    return runs.finish(
        out,
        splits,
        network,
        start.dense,
        backbone=start.backbone,
        members=members,
        config=about,
        fpr=config.fpr,
        say=say,
    )


def _observed(
    start: Checkpoint, config: ObserveConfig, dense: bool
) -> tuple[GatedNetwork, PathNetwork, tuple[Member, ...]]:
    """What the observers look at, the whole network with them, and how that is put together.

    Of a cascade they look at the first member, which every image goes through.
    """
    torch.manual_seed(config.seed)
    if dense:
        watched = attach_observers(unruled(start.dense, torch.zeros(1, *start.input_shape)), config.observers)
        return watched, watched, (Member(gate=None, observers=config.observers),)
    first, *others = start.members
    members = (replace(first, observers=config.observers), *others)
    if isinstance(start.network, Cascade):
        own = start.network
        watched = attach_observers(_gated(own.first), config.observers)
        cascade = Cascade(watched, own.second, own.threshold.item(), own.blend.item())
        return watched, cascade.eval(), members
    watched = attach_observers(_gated(start.network), config.observers)
    return watched, watched, members


def _gated(network: PathNetwork) -> GatedNetwork:
    assert isinstance(network, GatedNetwork)  # checkpoints hold these and cascades of them
    return network
