from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from penstock.errors import UnsupportedError
from penstock.export.capture.contract import ServedModel
from penstock.export.capture.exporting import capture
from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.masked import Masked
from penstock.export.operators import DOMAIN
from penstock.export.passes.simplify import tidy
from penstock.export.runtime import open_graph
from penstock.export.verify.parity import reference, verify
from penstock.nn.surgery import attach_gates


def test_capturing_keeps_each_gated_convolution_whole(captured: dict[str, Any]) -> None:
    for each in captured.values():
        own = [node for node in each.model.graph if node.domain == DOMAIN]
        layers = [node.attributes["layer"].as_string() for node in own]
        assert layers == [layer.name for layer in each.served.network.layout.layers]


def test_capturing_prints_nothing_and_leaves_the_network(
    chain: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    served = ServedModel(attach_gates(chain, torch.zeros(1, 3, 8, 8)), None).eval()
    before = {name: value.clone() for name, value in served.state_dict().items()}
    capture(served, (3, 8, 8))
    assert capfd.readouterr() == ("", "")
    assert {
        name: value for name, value in served.state_dict().items() if not torch.equal(value, before[name])
    } == {}
    assert served(torch.rand(2, 3, 8, 8)).logits.shape == (2, 5)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch means its own speed
def test_every_form_of_padding_and_stride_is_compiled(
    some_images: Callable[..., npt.NDArray[np.uint8]], to_bytes: Callable[[ir.Model], bytes]
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(8, 8, 2, padding="same"),  # one row more below than above
        nn.ReLU(),
        nn.Conv2d(8, 8, (3, 1), padding="valid"),
        nn.Conv2d(8, 8, 3, padding=(2, 1), stride=(1, 2), dilation=(2, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    gated = attach_gates(network.eval(), torch.zeros(1, 3, 8, 8))
    for layer in gated.gated_layers:
        nn.init.normal_(layer.gate.expand.bias, std=0.5)
    served = ServedModel(gated, None).eval()
    images = some_images(8)
    for lowering in (Masked(), Gathered()):
        model = capture(served, (3, 8, 8))
        lowering.lower(model)
        graph = open_graph(to_bytes(tidy(model)), single=lowering.single, threads=1)
        assert verify(reference(served, images), graph.run(images), gated.layout).images_flipped == 0


class Joining(nn.Module):
    """Joins gated results, some of which are read twice: sums of two, of one with itself, of unequal sizes, a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.right, self.top = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.pool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(24, 5)

    def forward(self, images: Tensor) -> Tensor:
        left = self.left(self.stem(images))
        right = self.right(left)
        top = self.top(self.pool(right))
        stack = torch.cat([torch.relu(left + right), right + right, left + top], dim=1)
        logits: Tensor = self.linear(self.pool(stack).flatten(1))
        return logits


def test_gated_results_may_meet_in_one_operator(
    some_images: Callable[..., npt.NDArray[np.uint8]], to_bytes: Callable[[ir.Model], bytes]
) -> None:
    torch.manual_seed(0)
    gated = attach_gates(Joining().eval(), torch.zeros(1, 3, 8, 8))
    for layer in gated.gated_layers:
        nn.init.normal_(layer.gate.expand.bias, std=0.5)
    served = ServedModel(gated, None).eval()
    images = some_images(8)
    for lowering in (Masked(), Gathered()):
        model = capture(served, (3, 8, 8))
        lowering.lower(model)
        graph = open_graph(to_bytes(tidy(model)), single=lowering.single, threads=1)
        assert verify(reference(served, images), graph.run(images), gated.layout).images_flipped == 0


def test_padding_that_onnx_does_not_have_is_refused_by_name() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
    served = ServedModel(attach_gates(network.eval(), torch.zeros(1, 3, 8, 8)), None)
    with pytest.raises(UnsupportedError, match="convolution 1 pads with 'circular'"):
        capture(served, (3, 8, 8))


def test_what_the_exporter_cannot_translate_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            count = int(images.sum().item())  # how many outputs depends on the image
            return tuple(images for _ in range(count))

    served = ServedModel(
        attach_gates(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), torch.zeros(1, 3, 8, 8)), None
    )
    served.head = Odd()
    with pytest.raises(UnsupportedError, match="cannot translate this network"):
        capture(served, (3, 8, 8))
