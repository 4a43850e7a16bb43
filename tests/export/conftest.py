"""Networks captured once, from which each test makes its own graphs; bundles of the tiny run, one per kind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock
from torchvision.models.squeezenet import Fire

from penstock.bundle import Bundle
from penstock.detect import FamilyScore, PathDetector, PathFeatures
from penstock.export.building import Builder, constant_array
from penstock.export.capture.contract import ServedModel
from penstock.export.capture.exporting import capture
from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.nodes.gated_conv import read_gated_conv
from penstock.export.nodes.routed_conv import read_routed_conv
from penstock.export.passes.finish import finish
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import Graph, open_graph
from penstock.manifest import FP32
from penstock.nn.cascade import RAN, Cascade, confidence
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.family_head import FamilyHead
from penstock.nn.gates import GateConfig
from penstock.nn.inference import answer
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import (
    ConsolidatedNetwork,
    PrototypeConfig,
    attach_prototypes,
    set_prototypes,
    stages_by_size,
)
from penstock.nn.routing import StageRouter
from penstock.nn.surgery import GatedNetwork, attach_gates
from penstock.nn.timing_paths import centre_routers

Images = npt.NDArray[np.uint8]
LOWERINGS: dict[str, type[Masked | Gathered]] = {"masked": Masked, "gathered": Gathered}
SHAPE = (3, 8, 8)


@dataclass(frozen=True, eq=False)
class Captured:
    """A network with gates and a detector in PyTorch, and the same captured, before any lowering."""

    served: ServedModel
    model: ir.Model

    def with_gates(self, biases: Sequence[npt.NDArray[np.float32]]) -> Captured:
        """The same with other biases ``[filters]`` of the gates' last layers, without capturing again."""
        served, model = copy.deepcopy(self.served), self.model.clone()
        assert isinstance(served.network, GatedNetwork)
        for layer, bias in zip(served.network.gated_layers, biases, strict=True):
            layer.gate.expand.bias.data = torch.from_numpy(bias)
        nodes = [node for node in model.graph if read_gated_conv(node) is not None]
        for node, bias in zip(nodes, biases, strict=True):
            fresh = Builder(model.graph, str(node.name)).constant(bias, "bias")
            node.replace_input_with(len(node.inputs) - 1, fresh)
        return Captured(served, model)

    @property
    def routers(self) -> dict[str, StageRouter]:
        """Routers by name, in order, those of both members of a cascade."""
        modules = self.served.named_modules()
        return {name: module for name, module in modules if isinstance(module, StageRouter)}

    def with_prototypes(self, bits: Sequence[npt.NDArray[np.float32]]) -> Captured:
        """The same with other prototypes ``[K, P_s]`` of each stage, without capturing again."""
        other = Captured(copy.deepcopy(self.served), self.model.clone())
        layers = iter([name for name in other.served.network.layout.names if name != RAN])
        nodes = {conv.layer: conv.node for node in other.model.graph if (conv := read_routed_conv(node))}
        for router, own in zip(other.routers.values(), bits, strict=True):
            for part in np.split(own, np.cumsum(router.filters)[:-1], axis=1):
                node = nodes[next(layers)]
                node.replace_input_with(4, Builder(other.model.graph, str(node.name)).constant(part, "bits"))
            for name, value in other.model.graph.initializers.items():  # the exporter merges equal tensors
                if np.array_equal(constant_array(value), router.prototypes):
                    other._set(name, own)
            router.prototypes.copy_(torch.from_numpy(own))
        return other

    def with_routers(self, biases: Sequence[npt.NDArray[np.float32]], *, in_pytorch: bool = True) -> Captured:
        """The same with other biases ``[K]`` of the routers' last layers, or only the graph with them."""
        other = Captured(copy.deepcopy(self.served), self.model.clone())
        for (name, router), bias in zip(other.routers.items(), biases, strict=True):
            other._set(f"{name}.expand.bias", bias)
            if in_pytorch:
                router.expand.bias.data = torch.from_numpy(bias)
        return other

    def with_threshold(self, threshold: float) -> Captured:
        """The same cascade with another confidence from which on its first member is sure."""
        other = Captured(copy.deepcopy(self.served), self.model.clone())
        assert isinstance(other.served.network, Cascade)
        other.served.network.threshold.fill_(threshold)
        other._set("network.threshold", other.served.network.threshold.numpy())
        return other

    def _set(self, name: str, array: npt.NDArray[np.float32]) -> None:
        self.model.graph.initializers[name].const_value = ir.tensor(array, name=name)

    def lowered(self, lowering: Lowering) -> ir.Model:
        """A finished graph."""
        model = self.model.clone()
        lowering.lower(model)
        return finish(model, FP32)

    def opened(self, lowering: Lowering) -> Graph:
        """A finished graph, loaded."""
        return open_graph(serialized(self.lowered(lowering)), single=lowering.single, threads=1)


def serialized(model: ir.Model) -> bytes:
    content: bytes = ir.serde.serialize_model(model).SerializeToString()
    return content


def draw_images(count: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Images:
    draw = np.random.default_rng(seed)
    level = draw.random((count, shape[0], 1, 1))  # gates see averages, and those of mere noise are all alike
    return (255 * level * draw.random((count, *shape))).astype(np.uint8)


@pytest.fixture(scope="session")
def some_images() -> Callable[..., Images]:
    """Draw images ``[count, 3, 8, 8]``, noise of different brightness; ``seed``, ``shape``."""
    return draw_images


@pytest.fixture(scope="session")
def to_bytes() -> Callable[[ir.Model], bytes]:
    """The content of a model's file."""
    return serialized


def _captured(network: nn.Module, where: str = "") -> Captured:
    torch.manual_seed(2)
    gates = GateConfig(reduction=1, normalize=True, initial_logit=0.0)
    chosen = (lambda name, _: where in name) if where else None
    gated = attach_gates(network, torch.zeros(1, *SHAPE), gates, chosen)
    _spread_gates(gated)
    seen = answer(gated, draw_images(200, seed=9))
    detector = PathDetector(classes=5).fit(PathFeatures(seen.bits, seen.gate_logits, seen.predicted))
    served = ServedModel(gated, FamilyHead(FamilyScore.of_default(detector.state()))).eval()
    return Captured(served, capture(served, SHAPE))


def _spread_gates(gated: GatedNetwork) -> None:
    """Let the gates' normalisation see images, and gates differ from each other, as after training."""
    for seed in range(30):
        gated.train()(torch.from_numpy(draw_images(32, seed)).float() / 255)
    for layer in gated.eval().gated_layers:
        nn.init.normal_(layer.gate.expand.weight, std=2.0)
        nn.init.normal_(layer.gate.expand.bias, std=0.5)


@pytest.fixture(scope="session")
def captured(chain: nn.Module, residual: nn.Module) -> dict[str, Captured]:
    """``chain``, ``residual``, and ``read``: that one with convolutions without gates behind those with; clone the
    models before changing anything."""
    return {
        "chain": _captured(chain),
        "residual": _captured(residual),
        "read": _captured(residual, ".conv1"),
    }


@pytest.fixture(scope="session")
def gated() -> Callable[[str], Captured]:
    """The networks of `PLAIN` with gates, by name."""
    return lambda name: _captured(_as_trained(PLAIN[name]()))


class Odd(nn.Module):
    """Activations that do not keep zeros or are no single operator, and a depthwise convolution of joined values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = (
            nn.Conv2d(3, 6, 3),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.Conv2d(6, 4, 1),
        )
        self.depthwise, self.norm = nn.Conv2d(18, 18, 3, groups=18), nn.BatchNorm2d(18)
        self.top, self.down, self.up = nn.Conv2d(18, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.wide, self.last, self.linear = nn.Conv2d(8, 9, 1), nn.Conv2d(9, 9, 3, groups=9), nn.Linear(9, 5)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        joined = torch.cat([nn.functional.silu(self.left(stem)), stem, torch.sigmoid(self.right(stem))], 1)
        top = nn.functional.hardtanh(self.top(self.norm(self.depthwise(joined)).relu()), -0.5, 0.5)
        squeezed = nn.functional.silu(self.down(top.mean((2, 3), keepdim=True)))
        weighted = top * torch.sigmoid(self.up(squeezed))
        followed = nn.functional.silu(self.last(torch.sigmoid(self.wide(weighted))))
        pooled = torch.sigmoid(
            nn.functional.max_pool2d(followed, 2)
        )  # no zeros any more, and no mask behind it
        logits: Tensor = self.linear(pooled.mean((2, 3)))
        return logits


class Centred(nn.Module):
    """Takes the mean of all channels from each where they are a vector."""

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(-1, keepdim=True)


def _norm(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU()


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "chain": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1), *_norm(8), nn.Conv2d(8, 10, 3, 1, 1, bias=False), *_norm(10)),
        *(nn.Conv2d(10, 12, 3, 1, 1), *_norm(12), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 10, 3, 1, 1), *_norm(10), nn.Conv2d(10, 8, 3, 1, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ),
    "residual": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1), *_norm(8), BasicBlock(8, 8)),
        BasicBlock(8, 12, 2, nn.Sequential(nn.Conv2d(8, 12, 1, 2), nn.BatchNorm2d(12))),
        *(nn.Flatten(), nn.Linear(12 * 4 * 4, 5)),
    ),
    "fire": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), Fire(8, 4, 6, 6), nn.MaxPool2d(2), Fire(12, 4, 6, 6)),
        *(nn.Conv2d(12, 10, 3, 1, 1, groups=2), nn.ReLU(), nn.Conv2d(10, 5, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ),
    "inverted": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1), *_norm(8), InvertedResidual(8, 8, 1, 3), InvertedResidual(8, 12, 2, 3)),
        *(nn.Conv2d(12, 16, 1), *_norm(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    ),
    "centred": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Centred(), nn.Linear(8, 5)),
    ),
    "group norms": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU()),
        *(nn.Conv2d(8, 6, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    ),
    "sigmoids": lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1), nn.Sigmoid(), nn.Conv2d(8, 10, 3, 2, 1), nn.Sigmoid()),
        *(nn.Conv2d(10, 6, 3, 1, 1), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    ),
    "odd": Odd,
}
# Stages of which two work side by side, and one whose router reads a value of one pixel.
STAGES = {"fire": (1, 1, 1, 3, 1), "odd": (1, 2, 2, 1)}


def consolidated(name: str, count: int, *, own_norms: bool = True) -> ConsolidatedNetwork:
    """A network with random prototypes that all serve some images."""
    torch.manual_seed(0)
    gated = attach_gates(_as_trained(PLAIN[name]()), torch.zeros(1, *SHAPE))
    shape = PrototypeConfig(
        count=count, stages=STAGES.get(name) or stages_by_size(gated), own_norms=own_norms
    )
    torch.manual_seed(count)
    network = attach_prototypes(gated, shape)
    set_prototypes(network, [torch.rand_like(router.prototypes).round() for router in network.routers])
    _as_trained(network.body if own_norms else nn.Identity())
    examples = torch.from_numpy(draw_images(64, seed=9)).float() / 255
    centre_routers(network.eval(), examples, torch.Generator().manual_seed(0))
    return network


def half_sure(first: PathNetwork, second: PathNetwork) -> Cascade:
    """A cascade whose first member is sure of about half of the images."""
    examples = torch.from_numpy(draw_images(64, seed=9)).float() / 255
    return Cascade(first, second, confidence(first(examples).logits).median().item(), blend=0.3)


def _as_trained(network: nn.Module) -> nn.Module:
    """Batch norms that do something, and answers of a size that tells differences."""
    for module in network.requires_grad_(False).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network.eval()


ROUTED: dict[str, Callable[[], PathNetwork]] = {
    "chain": lambda: consolidated("chain", 3),
    "residual": lambda: consolidated("residual", 3),
    "fire": lambda: consolidated("fire", 3),
    "inverted": lambda: consolidated("inverted", 3, own_norms=False),
    "odd": lambda: consolidated("odd", 2),
    "centred": lambda: consolidated("centred", 3),
    "group norms": lambda: consolidated("group norms", 3),
    "static": lambda: consolidated("inverted", 1),
    "cascade": lambda: half_sure(consolidated("chain", 1), consolidated("chain", 3)),
    "backed": lambda: half_sure(consolidated("chain", 3), consolidated("chain", 1)),
}


@pytest.fixture(scope="session")
def routed() -> Callable[[str], Captured]:
    """The networks with prototypes by name, each captured when it is first asked for."""

    @cache
    def named(name: str) -> Captured:
        network = ROUTED[name]().eval()
        seen = answer(network, draw_images(200, seed=9))
        detector = PathDetector(classes=5).fit(PathFeatures(seen.bits, seen.gate_logits, seen.predicted))
        served = ServedModel(network, FamilyHead(FamilyScore.of_default(detector.state()))).eval()
        return Captured(served, capture(served, SHAPE))

    return named


@pytest.fixture(scope="session")
def tiny(tiny_run: Path) -> Checkpoint:
    """The checkpoint of the tiny run."""
    return load_checkpoint(tiny_run / CHECKPOINT_FILE)


BUNDLES: dict[str, dict[str, Any]] = {
    "masked": {"lowering": "masked"},
    "gathered": {"lowering": "gathered"},
    "dense": {"dense": True},
    "observed": {"dense": True, "observe": True},
    "no-flags": {"lowering": "masked", "flags": False},
}


@pytest.fixture(scope="session")
def bundles(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The tiny run, exported in every way there is."""
    repository = tmp_path_factory.mktemp("repository")
    return {
        name: export(ExportOptions(source=str(tiny_run), repository=repository, name=name, **options))
        for name, options in BUNDLES.items()
    }
