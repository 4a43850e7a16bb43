"""Networks whose layers read several gated ones, or are followed by depthwise convolutions, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
import torchvision.models as models
from torch import Tensor, nn
from torchvision.models.densenet import DenseNet

from penstock.errors import UnsupportedError
from penstock.export.capture.contract import ServedModel
from penstock.export.capture.exporting import capture
from penstock.export.lowerings.executed import OpenOnly, everything
from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.passes.simplify import tidy
from penstock.export.runtime import open_graph
from penstock.export.verify.extremes import verify_extremes
from penstock.export.verify.parity import reference, verify
from penstock.nn.surgery import attach_gates

Images = Callable[..., npt.NDArray[np.uint8]]
ToBytes = Callable[[ir.Model], bytes]
SIZE = 32

SMALL: dict[str, Callable[[], nn.Module]] = {
    "squeezenet1_1": lambda: models.squeezenet1_1(num_classes=10),
    "mobilenet_v2": lambda: models.MobileNetV2(10, 0.25, [[1, 16, 1, 1], [4, 24, 2, 2], [4, 32, 1, 2]]),
    "densenet": lambda: DenseNet(8, (2, 2), 16, num_classes=10),
}
WHOLE: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v2": lambda: models.mobilenet_v2(num_classes=10),
    "densenet121": lambda: models.densenet121(num_classes=10),
    "googlenet": lambda: models.googlenet(num_classes=10, aux_logits=False, init_weights=False),
}


def gate_and_serve(network: nn.Module, size: int = SIZE) -> ServedModel:
    """Gates about where they are decided, random batch norms, answers of a size that tells differences."""
    for module in network.requires_grad_(False).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu").mul_(1.1)  # half of it is closed
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.5)
            nn.init.uniform_(module.weight, 0.7, 1.2)
            nn.init.normal_(module.bias, std=0.3)
    gated = attach_gates(network.eval(), torch.zeros(1, 3, size, size))
    for layer in gated.gated_layers:
        nn.init.normal_(layer.gate.expand.bias, std=0.5)
    return ServedModel(gated, None).eval()


def check(served: ServedModel, images: npt.NDArray[np.uint8], to_bytes: ToBytes) -> None:
    """Both lowerings answer as PyTorch does, also with all gates open and all closed."""
    expected = reference(served, images)
    assert expected.answer.logits.std() > 1e-3
    layout = served.network.layout
    model = capture(served, images.shape[1:])
    lowerings: tuple[Lowering, ...] = (Masked(), Gathered())
    for lowering in lowerings:
        lowered = model.clone()
        executed = lowering.lower(lowered)
        # What may be skipped is skipped: every input of which the layout says that channels may be missing.
        sources = {layer.name for layer in layout.layers if layer.sources}
        if isinstance(executed, OpenOnly):
            assert set(executed.narrow) & {reader.name for reader in layout.readers} == sources
        else:
            assert executed is everything
        graph = open_graph(to_bytes(tidy(lowered)), single=lowering.single, threads=1)
        assert verify(expected, graph.run(images), layout).images_flipped == 0
        verify_extremes(model, served, lowering, images[:2])


@pytest.mark.parametrize("name", SMALL)
def test_networks_that_join_and_follow_answer_as_in_pytorch(
    name: str, some_images: Images, to_bytes: ToBytes
) -> None:
    torch.manual_seed(0)
    check(gate_and_serve(SMALL[name]()), some_images(6, shape=(3, SIZE, SIZE)), to_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks_answer_as_in_pytorch(name: str, some_images: Images, to_bytes: ToBytes) -> None:
    torch.manual_seed(0)
    check(gate_and_serve(WHOLE[name](), 64), some_images(6, shape=(3, 64, 64)), to_bytes)


class Small(nn.Module):
    """A grouped convolution, a depthwise one with two filters per channel of a joined value, odd activations."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.stem, self.left = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, padding=1, groups=groups)
        self.right, self.depthwise = nn.Conv2d(6, 4, 1), nn.Conv2d(18, 36, 3, groups=18)
        self.norm, self.top, self.linear = nn.BatchNorm2d(36), nn.Conv2d(36, 8, 1), nn.Linear(8, 5)
        nn.init.normal_(self.norm.bias)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        joined = torch.cat([nn.functional.silu(self.left(stem)), stem, torch.sigmoid(self.right(stem))], 1)
        top = nn.functional.hardtanh(self.top(self.norm(self.depthwise(joined)).relu()), -0.5, 0.5)
        logits: Tensor = self.linear(top.mean((2, 3)))
        return logits


@pytest.mark.parametrize("groups", [1, 2])
def test_every_activation_and_a_follower_of_several_gates_are_compiled_or_refused(
    groups: int, some_images: Images, to_bytes: ToBytes
) -> None:
    torch.manual_seed(0)
    gated = attach_gates(Small(groups).eval(), torch.zeros(1, 3, 8, 8))
    for layer in gated.gated_layers:
        nn.init.normal_(layer.gate.expand.bias, std=0.5)
    assert [follower.sources for follower in gated.layout.followers] == [(0, 1)]
    served = ServedModel(gated, None).eval()
    images = some_images(8)
    model = capture(served, (3, 8, 8))
    lowerings: tuple[Lowering, ...] = (Masked(), Gathered())
    for lowering in lowerings:
        lowered = model.clone()
        if groups > 1 and isinstance(lowering, Gathered):
            with pytest.raises(
                UnsupportedError, match=r"left has 2 groups.*masked, or leave the layer ungated"
            ):
                lowering.lower(lowered)
            continue
        lowering.lower(lowered)
        graph = open_graph(to_bytes(tidy(lowered)), single=lowering.single, threads=1)
        assert verify(reference(served, images), graph.run(images), gated.layout).images_flipped == 0
        verify_extremes(model, served, lowering, images[:2])


def refused(network: nn.Module, message: str) -> None:
    served = ServedModel(attach_gates(network.eval(), torch.zeros(1, 3, 8, 8)), None).eval()
    with pytest.raises(UnsupportedError, match=message):
        capture(served, (3, 8, 8))


def test_a_network_with_several_outputs_is_refused_with_the_remedy() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, images: Tensor) -> dict[str, Any]:
            return {"out": self.conv(self.stem(images))}

    refused(Two(), "returns a dict; only one tensor")


def test_a_convolution_with_a_forward_of_its_own_is_refused_by_name() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images - images.mean())

    network = nn.Sequential(nn.Conv2d(3, 4, 1), Standardized(4, 4, 1)).eval()
    served = ServedModel(attach_gates(network, torch.zeros(1, 3, 8, 8), leaves=["1"]), None).eval()
    with pytest.raises(UnsupportedError, match="convolution 1 is a Standardized"):
        capture(served, (3, 8, 8))


def test_a_batch_norm_without_statistics_is_refused_by_name() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)]
    refused(nn.Sequential(*layers), "batch norm of convolution 1 keeps no statistics")
