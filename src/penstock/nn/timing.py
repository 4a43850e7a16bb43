"""Timing sources: networks with random weights and a fixed path distribution, for timing and nothing else.

    timing:NETWORK[,density=0.5][,prototypes=8][,seed=0]

is a network of torchvision at 224x224, with normalisation inside as in every backbone. Nothing was learned, so its
answers, classes and costs say nothing about any task; but it has the shapes of a network that people serve, and a
given share of its filters is open, so it takes the time that such a network would take. No data set and no training are
needed. Its detector is fitted to random images: its flags mean nothing either, but cost what flags cost.

**What is ruled.** In a residual network only the *inner* convolutions of a block, those whose output is not added to
the residual stream: ``conv1`` of ResNet-18's blocks, ``conv1`` and ``conv2`` of ResNet-50's. ``density`` is the share
of *their* filters that are open. This is where a choice per input saves work on both sides: the filters of the one
convolution and the input channels of the next. Behind the add all channels are there anyway.

**By what.** ``prototypes=K`` gives a consolidated network: every stage has K random prototypes, each with
``round(density * filters)`` filters open in every layer (at least one), and for K > 1 a router that spreads images
over them. ``prototypes=0`` gives gates, one per layer, which decide filter by filter for every image.

The same source gives the same weights to the bit, whatever the number of threads, on the same kind of processor and
version of PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torchvision.models as models
from torch import Tensor, nn

from penstock.detect import PathDetector, PathFeatures
from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.nn.assembly import Member
from penstock.nn.checkpoint import TIMING_PREFIX, Checkpoint
from penstock.nn.counting import conv_macs
from penstock.nn.gates import GateConfig
from penstock.nn.inference import answer
from penstock.nn.normalize import Normalize
from penstock.nn.operators import shape_of, tensor_input
from penstock.nn.prototypes import (
    ConsolidatedNetwork,
    PrototypeConfig,
    attach_prototypes,
    set_prototypes,
    stages_by_size,
)
from penstock.nn.routing import RoutedNorm
from penstock.nn.surgery import GatedNetwork, attach_gates
from penstock.nn.tensor_file import prefixed
from penstock.nn.timing_paths import centre_gates, centre_routers, timing_images
from penstock.paths import Follower

INPUT_SHAPE = (3, 224, 224)
CLASSES = 1000
INNER = {"resnet18": ("conv1",), "resnet50": ("conv1", "conv2")}  # by name within a block
FORM = f"{TIMING_PREFIX}NETWORK[,density=0.5][,prototypes=8][,seed=0]"
NOTE = "random weights: only times mean anything"
EXAMPLES = 64  # images that gates and routers are centred on, and the detector is fitted to
CALIBRATION = 100  # others that it is calibrated on: enough for 1 %
BRANCH = 0.25  # scale of what a block adds; at 1, what differs between images would grow from block to block
NORM_IMAGES = 16  # images that batch norms take their statistics from
MOST_PROTOTYPES = 32  # with more, hardly an example would be left for each


@dataclass(frozen=True, kw_only=True)
class TimingConfig:
    """What a timing source asks for.

    Attributes:
        network: ``resnet18`` or ``resnet50``.
        density: share of open filters of the inner convolutions, above 0, at most 1.
        prototypes: K of each stage; 0: gates in their place.
        seed: of weights, prototypes, gates and routers.
    """

    network: str
    density: float = 0.5
    prototypes: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network not in INNER:
            raise NotFoundError(f"no network {self.network!r} to time; there are {', '.join(INNER)}")
        if not 0 < self.density <= 1:
            raise InvalidArgumentError(f"density is {self.density}; it must be above 0 and at most 1")
        if not 0 <= self.prototypes <= MOST_PROTOTYPES:
            raise InvalidArgumentError(
                f"prototypes is {self.prototypes}; it must be 1 to {MOST_PROTOTYPES}, or 0 for gates"
            )
        if not 0 <= self.seed < 2**32:
            raise InvalidArgumentError(f"seed is {self.seed}; it must be 0 to 2^32 - 1")


def read_timing_source(source: str) -> TimingConfig:
    """What ``timing:NETWORK[,density=0.5][,prototypes=8][,seed=0]`` says.

    Raises:
        NotFoundError: there is no such network.
        InvalidArgumentError: an unknown, repeated or broken setting.
    """
    network, *settings = source.removeprefix(TIMING_PREFIX).split(",")
    kinds = {"density": float, "prototypes": int, "seed": int}
    values: dict[str, float] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key not in kinds or not equals or key in values:
            raise InvalidArgumentError(
                f"{setting!r} in {source!r}: expected each of {', '.join(kinds)} at most once, as in {FORM}"
            )
        try:
            values[key] = kinds[key](text)
        except ValueError as error:
            wanted = "number" if kinds[key] is float else "whole number"
            raise InvalidArgumentError(f"{key} is {text!r} in {source!r}; it must be a {wanted}") from error
    return TimingConfig(network=network, **values)  # type: ignore[arg-type]


def load_timing_source(source: str, *, detector: bool = True) -> tuple[Checkpoint, dict[str, str]]:
    """Build what a timing source means, and say what it was: the name as given, and a hash of what was built.

    Args:
        source: its name.
        detector: fit one; the hash does not depend on it.

    Raises:
        NotFoundError: there is no such network.
        InvalidArgumentError: an unknown, repeated or broken setting.
    """
    checkpoint = build_timing_checkpoint(read_timing_source(source), detector=detector)
    return checkpoint, {"name": source, "sha256": _fingerprint(checkpoint)}


def build_timing_checkpoint(config: TimingConfig, *, detector: bool = True) -> Checkpoint:
    """A network to time, as a checkpoint, with a detector or without.

    Its layout counts, beside the ruled convolutions, those that read them as followers: they compute all their filters,
    but only from the channels that are there.
    """
    gate = GateConfig(normalize=True)
    with _repeatable(config.seed):
        dense = _dense(config)
        network = _with_paths(dense, gate, config).eval()
        fitted, scores = _detector(network, config.seed) if detector else ({}, np.empty(0))
    shape = network.config if isinstance(network, ConsolidatedNetwork) else None
    return Checkpoint(
        backbone=config.network,
        class_names=tuple(str(index) for index in range(CLASSES)),
        input_shape=INPUT_SHAPE,
        members=(Member(gate=gate, prototypes=shape),),
        network=network,
        dense=dense,
        detector=fitted,
        calibration=scores,
        config={"timing": asdict(config)},
        figures={"timing_only": NOTE},
    )


def _detector(
    network: GatedNetwork, seed: int
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.float64]]:
    """A detector's state, and its scores of other images than it was fitted to."""
    detector = PathDetector(classes=CLASSES).fit(_features(network, EXAMPLES, seed))
    scores = detector.score(_features(network, CALIBRATION, seed + 1))
    return detector.state(), scores.astype(np.float64)


def _features(network: GatedNetwork, count: int, seed: int) -> PathFeatures:
    """What a detector sees of the answers to random images."""
    seen = answer(network, 255 * timing_images(count, INPUT_SHAPE, seed).numpy())
    return PathFeatures.of(network.layout, seen.bits, seen.gate_logits, seen.logits)


def _dense(config: TimingConfig) -> nn.Module:
    """The dense network, its batch norms fitted to a few images: so values keep their scale through all blocks."""
    network = getattr(models, config.network)(num_classes=CLASSES)
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    # Not around the network but in its first layer: so the names of all the others stay torchvision's.
    network.conv1 = nn.Sequential(OrderedDict(normalize=normalize, conv=network.conv1))
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.momentum = 1.0
        if name.startswith("layer") and name.endswith(f".bn{len(INNER[config.network]) + 1}"):
            nn.init.constant_(norm.weight, BRANCH)
    with torch.inference_mode():
        network.train()(timing_images(NORM_IMAGES, INPUT_SHAPE, config.seed))
    for norm in norms.values():
        norm.momentum = 0.1
    return cast(nn.Module, network.eval())


def _with_paths(dense: nn.Module, gate: GateConfig, config: TimingConfig) -> GatedNetwork:
    """Prototypes with routers, or gates, that spread example images."""

    def inner(name: str, _: nn.Conv2d) -> bool:
        return name.startswith("layer") and name.split(".")[-1] in INNER[config.network]

    gated = _count_readers(attach_gates(dense, torch.zeros(1, *INPUT_SHAPE), gate, inner)).eval()
    draw = torch.Generator().manual_seed(config.seed)
    examples = timing_images(EXAMPLES, INPUT_SHAPE, config.seed)
    if config.prototypes == 0:
        centre_gates(gated, examples, config.density, draw)
        return gated
    shape = PrototypeConfig(count=config.prototypes, stages=stages_by_size(gated))
    network = _consolidated(gated, shape, config.density, draw)
    centre_routers(network, examples, draw)
    return network


def _count_readers(network: GatedNetwork) -> GatedNetwork:
    """The network with a layout that counts what ungated convolutions save behind the gated ones."""
    layers = {name: index for index, name in enumerate(network.layout.names)}
    modules = dict(network.body.named_modules())
    followers = []
    for node in network.body.graph.nodes:
        conv = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and tensor_input(node).target is operator.getitem:
            source = layers[str(tensor_input(tensor_input(node)).target)]
            macs = conv_macs(conv, shape_of(node))
            followers.append(Follower(name=str(node.target), macs=macs, sources=(source,)))
    layout = replace(
        network.layout,
        fixed_macs=network.layout.fixed_macs - sum(follower.macs for follower in followers),
        followers=tuple(followers),
    )
    return GatedNetwork(network.body, layout, network.report)


def _consolidated(
    gated: GatedNetwork, shape: PrototypeConfig, density: float, draw: torch.Generator
) -> ConsolidatedNetwork:
    """Random prototypes, and batch norms that differ between them as trained ones do."""
    network = attach_prototypes(gated, shape)
    set_prototypes(
        network, [_prototypes(router.filters, shape.count, density, draw) for router in network.routers]
    )
    for module in network.modules():
        if isinstance(module, RoutedNorm):
            for parameter in module.parameters():
                spread = 0.1 * torch.randn(parameter.shape, generator=draw)
                parameter.data.add_(spread)
    return network


def _prototypes(filters: list[int], count: int, density: float, draw: torch.Generator) -> Tensor:
    """Random bits ``[count, P_s]`` of one stage, as many open in each prototype."""
    layers = []
    for width in filters:
        ranks = torch.rand(count, width, generator=draw).argsort(1).argsort(1)
        layers.append((ranks < max(1, round(density * width))).float())
    return torch.cat(layers, dim=1)


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Seed PyTorch's own draws and sum in one order, and leave the caller's generator and threads as they were."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _fingerprint(checkpoint: Checkpoint) -> str:
    """SHA-256 over the configuration and all tensors, in the order of their names."""
    digest = hashlib.sha256(json.dumps(dict(checkpoint.config), sort_keys=True).encode())
    tensors = prefixed("gated", checkpoint.network.state_dict()) | prefixed(
        "dense", checkpoint.dense.state_dict()
    )
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
