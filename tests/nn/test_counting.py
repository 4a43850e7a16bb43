"""MACs of single operators against closed formulas."""

import operator
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.errors import SurgeryError
from penstock.nn.surgery import attach_gates

# Around every operator: 1x1 convolutions from 3 to 4 and from 4 (or ``channels``) to 2 channels.
EDGE = 64 * 3 * 4


class Between(nn.Module):
    """Something between two convolutions."""

    def __init__(self, between: Callable[..., Any], channels: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(channels, 2, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.between(self.first(x)))
        return result


def macs_between(between: Callable[..., Any], channels: int = 4) -> int:
    """MACs of what stands between the two convolutions, on an image of 8 x 8."""
    network = Between(between, channels).eval()
    leaving = between(torch.zeros(1, 4, 8, 8)).shape
    total = attach_gates(network, torch.zeros(1, 3, 8, 8)).layout.dense_macs
    return total - EDGE - int(leaving[2] * leaving[3]) * channels * 2


READ = 4 * 8 * 8
FREE = [
    nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.Sigmoid(), nn.LeakyReLU(), nn.BatchNorm2d(4),
    nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(2), nn.Dropout(0.5), nn.Identity(), nn.ZeroPad2d(1), nn.ConstantPad2d(1, 2.0),
    nn.ReflectionPad2d(1), nn.Upsample(scale_factor=2), nn.UpsamplingNearest2d(scale_factor=2), nn.Softmax2d(),
    torch.relu, torch.sigmoid, F.relu6, F.hardtanh, F.silu, F.hardswish, F.leaky_relu,
]  # fmt: skip
FREE_CALLS: list[Callable[[Tensor], Tensor]] = [
    lambda x: F.max_pool2d(x, 2),
    lambda x: F.dropout(x, 0.5, False),
    lambda x: F.pad(x, (1, 1, 0, 0)),
    lambda x: F.interpolate(x, scale_factor=2.0),
    lambda x: torch.cat(x.chunk(2, dim=1), dim=1),
    lambda x: torch.cat(torch.split(x, [1, 3], 1), 1),
    lambda x: x + x * 2 - x / 3,
    lambda x: x.clamp(0, 6),
    lambda x: x.permute(0, 1, 3, 2).contiguous(),
    lambda x: torch.flatten(x, 2).view(x.size(0), 4, 8, 8),
    lambda x: x.transpose(2, 3).reshape(x.shape[0], 4, 8, 8),
    lambda x: x[:, :, ::2, ::2],
]


@pytest.mark.parametrize("between", [*FREE, *FREE_CALLS])
def test_activations_maxima_sums_and_moves_are_free(between: Callable[..., Any]) -> None:
    assert macs_between(between) == 0


@pytest.mark.parametrize(
    ("between", "macs", "channels"),
    [
        (nn.AvgPool2d(2), READ, 4),
        (nn.AdaptiveAvgPool2d(1), READ, 4),
        (lambda x: F.avg_pool2d(x, 4), READ, 4),
        (lambda x: F.adaptive_avg_pool2d(x, 2), READ, 4),
        (lambda x: x.mean([2, 3], keepdim=True), READ, 4),
        (lambda x: torch.mean(x, dim=(2, 3), keepdim=True), READ, 4),
        (lambda x: x.sum(dim=3, keepdim=True), READ, 4),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), 4 * 4 * 6 * 4 * 9, 6),
        (nn.Conv2d(4, 6, (1, 3), padding="same", groups=2), 64 * 6 * 2 * 3, 6),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), 64 * 8 * 9, 8),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), 64 * 4 * 6 * 4, 6),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), 64 * 4 * 3 * 9, 6),
        (nn.UpsamplingBilinear2d(scale_factor=2), 4 * 256 * 4, 4),
        (lambda x: F.interpolate(x, size=(4, 4), mode="bicubic"), 16 * 16 * 4, 4),
        (lambda x: F.conv2d(x, torch.ones(5, 4, 3, 3)), 36 * 5 * 4 * 9, 5),
        (lambda x: F.linear(x, torch.ones(3, 8)), 4 * 8 * 3 * 8, 4),
        (nn.Linear(8, 5), 4 * 8 * 5 * 8, 4),
        (lambda x: x @ x, 4 * 8 * 8 * 8, 4),
        (lambda x: torch.matmul(x, x), 4 * 8 * 8 * 8, 4),
        (lambda x: operator.matmul(x, x), 4 * 8 * 8 * 8, 4),
        (nn.GroupNorm(2, 4), 5 * READ, 4),
        (nn.LayerNorm(8, elementwise_affine=False), 4 * READ, 4),
        (nn.InstanceNorm2d(4), 4 * READ, 4),
        (lambda x: F.layer_norm(x, (8,)), 4 * READ, 4),
    ],
)  # fmt: skip
def test_what_multiplies_is_counted(between: Callable[..., Any], macs: int, channels: int) -> None:
    assert macs_between(between, channels) == macs


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (nn.LocalResponseNorm(2), r"between \(LocalResponseNorm\).*name it in leaves=\['between'\]"),
        (nn.Upsample(scale_factor=2, mode="area"), r"mode 'area'"),
        (
            lambda x: torch.fft.fft2(x).real,
            r"fft2\) at .*test_counting.py:\d+: move it into a module of its own",
        ),
        (lambda x: torch.einsum("nchw,ndhw->nchw", x, x), "einsum"),
        (lambda x: x.cumsum(1), r"call_method cumsum"),
        (lambda x: torch.sort(x, 1)[0], "sort"),
    ],
)
def test_an_operator_of_unknown_cost_is_refused_with_its_name_its_line_and_the_remedy(
    between: Callable[..., Any], message: str
) -> None:
    with pytest.raises(SurgeryError, match=f"cannot count the MACs of .*{message}"):
        attach_gates(Between(between).eval(), torch.zeros(1, 3, 8, 8))


class Attention(nn.Module):
    """Products that stand in no table, a pooling and a convolution, behind a branch that no tracer can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        flat = self.inside(x).flatten(2)
        weights = torch.einsum("ncx,ndx->ncd", flat, flat).softmax(-1)
        return torch.einsum("ncd,ndx->ncx", weights, flat).view(x.shape) * x.mean((2, 3), keepdim=True)


def test_what_runs_inside_a_module_kept_whole_is_counted() -> None:
    network = Between(Attention()).eval()
    layout = attach_gates(network, torch.zeros(1, 3, 8, 8), leaves=["between"]).layout
    inside = 64 * 4 * 4 * 9 + 2 * 4 * 4 * 64 + 2 * READ  # the condition reads a sum
    assert layout.dense_macs == EDGE + inside + 64 * 4 * 2
    by_class = attach_gates(network, torch.zeros(1, 3, 8, 8), leaves=[Attention]).layout
    assert by_class == layout


def test_an_operator_named_as_the_remedy_says_is_counted() -> None:
    network = Between(nn.MultiheadAttention(8, 2)).eval()
    network.between = nn.Sequential(nn.Flatten(2, 3), nn.Unflatten(2, (8, 8)), nn.LocalResponseNorm(2))
    with pytest.raises(SurgeryError, match=re.escape("leaves=['between.2']")):
        attach_gates(network, torch.zeros(1, 3, 8, 8))
    assert attach_gates(network, torch.zeros(1, 3, 8, 8), leaves=["between.2"]).layout.bits == 2
