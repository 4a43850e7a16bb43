"""Which input channels a layer may skip: claims for single operators, and soundness on random networks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from penstock.nn.gates import GatedConv2d
from penstock.nn.surgery import GatedNetwork, attach_gates

Force = Callable[[GatedNetwork, Sequence[Tensor]], GatedNetwork]
Inputs = tuple[tuple[int, ...], int]
KEPT: Inputs = ((0,), 0)
LOST: Inputs = ((), 0)


class Between(nn.Module):
    """Something between a gated convolution of 4 filters and the next; ``stem``, 4 channels, is never gated."""

    def __init__(self, between: Callable[..., Any], channels: int) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.between = between
        self.last = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        first = self.first(stem)
        two = getattr(self.between, "__name__", "").startswith("two")
        result: Tensor = self.last(self.between(first, stem) if two else self.between(first))
        return result


def two_joined(first: Tensor, stem: Tensor) -> Tensor:
    return torch.cat([first, F.relu(stem), F.relu(first)], 1)


def two_added(first: Tensor, stem: Tensor) -> Tensor:
    return first + stem


def two_multiplied(first: Tensor, stem: Tensor) -> Tensor:
    return first * stem.mean((2, 3), keepdim=True).sigmoid()


def two_divided(first: Tensor, stem: Tensor) -> Tensor:
    return stem / (first + 1)


def two_in_place(first: Tensor, stem: Tensor) -> Tensor:
    first.add_(stem)
    return F.relu(first)


def first_half_behind_second(x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    return torch.cat([right, left], 1)


def joined_and_split(x: Tensor) -> Tensor:
    halves: tuple[Tensor, ...] = torch.split(torch.cat([x, x], dim=1), 4, dim=1)
    return halves[1]


@pytest.mark.parametrize(
    ("between", "reads"),
    [
        (nn.Identity(), KEPT),
        (nn.ReLU(), KEPT),
        (nn.ReLU6(), KEPT),
        (nn.GELU(), KEPT),
        (nn.Hardtanh(-1, 1), KEPT),
        (nn.Hardtanh(0.5, 1), KEPT),  # part of the group: the mask stands behind it
        (nn.Sequential(nn.ReLU(), nn.Hardtanh(0.5, 1)), LOST),
        (nn.Sequential(nn.ReLU(), nn.Sigmoid()), LOST),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)), LOST),  # turns zeros into its bias
        (nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.1), nn.AvgPool2d(2)), KEPT),
        (nn.Sequential(nn.ZeroPad2d(1), nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1)), KEPT),
        (nn.ConstantPad2d(1, 0.0), KEPT),
        (nn.ConstantPad2d(1, 1.0), LOST),
        (nn.Conv2d(4, 4, 1, groups=4), KEPT),  # follows the gate
        (nn.Conv2d(4, 8, 1, groups=4), ((0, 0), 0)),
        (nn.ConvTranspose2d(4, 4, 1), LOST),
        (nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2)), LOST),
        (nn.ChannelShuffle(2), LOST),
        (lambda x: F.pad(x, (1, 1)), KEPT),
        (lambda x: F.pad(x, (1, 1), value=1.0), LOST),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), LOST),
        (lambda x: F.max_pool2d(F.avg_pool2d(F.dropout(x, 0.5, False), 2), 2), KEPT),
        (lambda x: F.adaptive_avg_pool2d(x, (2, 2)), KEPT),
        (lambda x: x.mean((2, 3), keepdim=True), KEPT),
        (lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1), LOST),
        (lambda x: F.interpolate(x, scale_factor=2.0), KEPT),
        (lambda x: x.flatten(2).view(x.shape[0], 4, 8, 8), KEPT),
        (lambda x: x.view(x.shape[0], 2, 2, 8, 8).transpose(1, 2).reshape(x.shape), LOST),
        (lambda x: x.clamp(min=0.1), LOST),
        (lambda x: x.clamp(0, 6), KEPT),
        (lambda x: x * 2 / 3, KEPT),
        (lambda x: x + 1, LOST),
        (lambda x: x[:, :, ::2], KEPT),
        (lambda x: x[:, ::2], LOST),
        (lambda x: x[:, 1:], LOST),  # a part of the filters: not counted, for simplicity
        (lambda x: torch.cat([x, x], 1)[:, 2:], ((0,), 2)),
        (first_half_behind_second, LOST),
        (joined_and_split, KEPT),
        (two_joined, ((0, 0), 4)),
        (two_added, LOST),
        (two_multiplied, KEPT),
        (two_divided, LOST),
        (two_in_place, LOST),
    ],
)  # fmt: skip
def test_the_next_layer_skips_channels_that_are_certain_to_be_zero(
    between: Callable[..., Any], reads: Inputs, force: Force
) -> None:
    first = torch.rand(1, 4, 8, 8)
    two = getattr(between, "__name__", "").startswith("two")
    channels = (between(first.clone(), first.clone()) if two else between(first)).shape[1]
    gated = attach_gates(Between(between, channels).eval(), torch.zeros(1, 3, 8, 8))
    last = gated.layout.layers[-1]
    assert (last.sources, last.ungated) == reads
    assert_sound(gated, force)


def assert_sound(gated: GatedNetwork, force: Force, seed: int = 0) -> None:
    """No layer's input has more channels that are not zero than the layout says are there."""
    torch.manual_seed(seed)
    codes = [(torch.rand(layer.filters) < 0.5).float() for layer in gated.layout.layers]
    force(gated, codes)
    weight, constant = gated.layout.input_shares()
    there = np.array([code.mean().item() for code in codes]) @ weight + constant
    for reader, share in zip(gated.layout.readers, there.tolist(), strict=True):
        seen: list[Tensor] = []
        module = gated.body.get_submodule(reader.name)
        hook = module.register_forward_pre_hook(lambda _module, inputs, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            gated(torch.rand(2, 3, 8, 8))
        hook.remove()
        filled = (seen[0].abs().amax(dim=(0, 2, 3)) > 0).sum().item()
        assert filled <= share * seen[0].shape[1] + 1e-6, reader.name


class Random(nn.Module):
    """A network drawn step by step; each step reads values that earlier ones made."""

    def __init__(self, draw: st.DataObject) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.steps = nn.ModuleList()
        self.reads: list[tuple[str, int, int]] = []
        channels = [4]
        for _ in range(draw.draw(st.integers(3, 9))):
            kind = draw.draw(
                st.sampled_from(["conv", "conv", "depthwise", "cat", "add", "pool", "norm", "half"])
            )
            one, other = (draw.draw(st.integers(0, len(channels) - 1)) for _ in range(2))
            if kind == "add" and channels[one] != channels[other]:
                kind = "conv"
            wide = channels[one]
            made: dict[str, tuple[nn.Module, int]] = {
                "conv": (conv_group(draw, wide, out := draw.draw(st.integers(2, 6))), out),
                "depthwise": (nn.Sequential(nn.Conv2d(wide, 2 * wide, 3, 1, 1, groups=wide), norm(2 * wide)), 2 * wide),
                "pool": (nn.MaxPool2d(3, 1, 1), wide),
                "norm": (norm(wide), wide),
                "cat": (nn.Identity(), wide + channels[other]),
                "add": (nn.Identity(), wide),
                "half": (nn.Identity(), max(1, wide // 2)),
            }  # fmt: skip
            module, result = made[kind]
            self.steps.append(module)
            self.reads.append((kind, one, result if kind == "half" else other))
            channels.append(result)
        self.last = nn.Conv2d(channels[-1], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.stem(x)]
        for module, (kind, one, other) in zip(self.steps, self.reads, strict=True):
            value = values[one]
            if kind == "cat":
                value = torch.cat([value, values[other]], 1)
            elif kind == "add":
                value = value + values[other]
            elif kind == "half":
                value = value[:, :other]
            values.append(module(value))
        logits: Tensor = self.last(values[-1]).mean((2, 3))
        return logits


def norm(channels: int) -> nn.Module:
    module = nn.BatchNorm2d(channels)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    return module


def conv_group(draw: st.DataObject, inputs: int, outputs: int) -> nn.Module:
    parts: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1)]
    if draw.draw(st.booleans()):
        parts.append(norm(outputs))
    parts.append(draw.draw(st.sampled_from([nn.Identity(), nn.ReLU(), nn.Sigmoid(), nn.SiLU()])))
    return nn.Sequential(*parts)


@settings(max_examples=25)
@given(draw=st.data(), seed=st.integers(0, 2**31))
def test_on_random_networks_nothing_is_skipped_that_is_there_and_open_gates_change_nothing(
    draw: st.DataObject, seed: int, force: Force
) -> None:
    torch.manual_seed(seed)
    network = Random(draw).eval()
    gated = attach_gates(network, torch.zeros(1, 3, 8, 8), where=lambda name, _conv: name != "stem")
    assert_sound(gated, force, seed)
    force(gated, [torch.ones(layer.filters) for layer in gated.layout.layers])
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        wanted = network(images)
        torch.testing.assert_close(gated(images).logits, wanted, rtol=1e-5, atol=1e-5)
        assert all(isinstance(layer, GatedConv2d) for layer in gated.gated_layers)
