"""Networks captured once, from which each test makes its own graphs; bundles of the tiny run, one per kind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from torch import nn

from penstock.bundle import Bundle
from penstock.detect import PathDetector, PathFeatures
from penstock.export.building import Builder
from penstock.export.capture.contract import ServedModel
from penstock.export.capture.exporting import capture
from penstock.export.capture.head import DetectorHead
from penstock.export.lowerings.gated_conv import read_gated_conv
from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.passes.simplify import tidy
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import Graph, open_graph
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from penstock.nn.gates import GateConfig
from penstock.nn.inference import answer
from penstock.nn.surgery import GatedNetwork, attach_gates

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

    def lowered(self, lowering: Lowering) -> ir.Model:
        """A finished graph."""
        model = self.model.clone()
        lowering.lower(model)
        return tidy(model)

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


def _captured(network: nn.Module) -> Captured:
    torch.manual_seed(2)
    gates = GateConfig(reduction=1, normalize=True, initial_logit=0.0)
    gated = attach_gates(network, torch.zeros(1, *SHAPE), gates)
    _spread_gates(gated)
    seen = answer(gated, draw_images(200, seed=9))
    detector = PathDetector(classes=5).fit(PathFeatures(seen.bits, seen.gate_logits, seen.predicted))
    served = ServedModel(gated, DetectorHead(detector.state())).eval()
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
    """``chain`` and ``residual``; clone the models before changing anything."""
    return {"chain": _captured(chain), "residual": _captured(residual)}


@pytest.fixture(scope="session")
def tiny(tiny_run: Path) -> Checkpoint:
    """The checkpoint of the tiny run."""
    return load_checkpoint(tiny_run / CHECKPOINT_FILE)


BUNDLES: dict[str, dict[str, Any]] = {
    "masked": {"lowering": "masked"},
    "gathered": {"lowering": "gathered"},
    "dense": {"dense": True},
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
