from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn

from penstock.nn.backbones import build_backbone
from penstock.nn.cascade import joined
from penstock.nn.cost import ActiveMacs
from penstock.nn.surgery import GatedNetwork, attach_gates
from penstock.paths import Follower, PathLayer, PathLayout

Force = Callable[[GatedNetwork, Sequence[Tensor]], GatedNetwork]


def cifar_resnet_macs(blocks: int) -> int:
    """By hand: 3x3 convolutions, the average pooling (one MAC per element read), and the classifier."""
    total = 32 * 32 * 3 * 16 * 9
    entering = 16
    for channels, size in ((16, 32), (32, 16), (64, 8)):
        total += size * size * 9 * (entering * channels + (2 * blocks - 1) * channels * channels)
        entering = channels
    return total + 8 * 8 * 64 + 64 * 10


def test_resnet20_costs_what_is_known() -> None:
    # 40.55 million without the 4,096 reads of the pooling, as fvcore counts.
    assert cifar_resnet_macs(3) == 40_551_040 + 4_096


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet32", 5), ("resnet56", 9)])
def test_dense_macs_of_a_cifar_resnet_follow_the_formula(name: str, blocks: int) -> None:
    layout = attach_gates(build_backbone(name, 10), torch.zeros(1, 3, 32, 32)).layout
    assert layout.dense_macs == cifar_resnet_macs(blocks)


def gate_macs(channels: int, filters: int, area: int) -> int:
    """Pooling of the input, then two linear layers with a quarter of the channels between them."""
    return channels * area + channels * (channels // 4) + (channels // 4) * filters


def test_costs_of_a_chain_by_hand(chain: nn.Module) -> None:
    layout = attach_gates(chain, torch.zeros(1, 3, 8, 8)).layout
    stem, wide, last = 64 * 3 * 8 * 9, 64 * 8 * 12 * 9, 4 * 12 * 10 * 9
    rest = 10 * 2 * 2 + 10 * 5  # pooling and classifier
    assert layout == PathLayout(
        layers=(
            PathLayer(name="wide", filters=12, macs=wide),
            PathLayer(name="last", filters=10, macs=last, sources=(0,)),  # through the max pool
        ),
        fixed_macs=stem + rest + gate_macs(8, 12, 64) + gate_macs(12, 10, 16),
        dense_macs=stem + wide + last + rest,
    )


def test_costs_of_a_residual_network_by_hand(residual: nn.Module) -> None:
    layout = attach_gates(residual, torch.zeros(1, 3, 8, 8)).layout
    stem, rest = 64 * 3 * 8 * 9, 16 * 4 * 4 + 16 * 5
    macs = [64 * 8 * 8 * 9, 64 * 8 * 8 * 9, 16 * 8 * 16 * 9, 16 * 16 * 16 * 9]
    assert [layer.macs for layer in layout.layers] == macs
    # Inside a block the second convolution reads the first; what comes after an add has every channel.
    assert [layer.sources for layer in layout.layers] == [(), (0,), (), (2,)]
    gates = gate_macs(8, 8, 64) + gate_macs(8, 8, 64) + gate_macs(8, 16, 64) + gate_macs(16, 16, 16)
    assert layout.fixed_macs == stem + rest + gates
    assert layout.dense_macs == stem + rest + sum(macs)


def test_with_all_gates_open_the_gates_come_on_top(residual: nn.Module, force: Force) -> None:
    gated = attach_gates(residual, torch.zeros(1, 3, 8, 8))
    layout = gated.layout
    force(gated, [torch.ones(layer.filters) for layer in layout.layers])
    share = (layout.fixed_macs + sum(layer.macs for layer in layout.layers)) / layout.dense_macs
    assert share > 1
    active = gated(torch.rand(3, 3, 8, 8)).active_macs
    assert active.shape == (3, 1)
    torch.testing.assert_close(active, torch.full((3, 1), share))


def test_with_all_gates_closed_only_what_everyone_pays_is_left(residual: nn.Module, force: Force) -> None:
    gated = attach_gates(residual, torch.zeros(1, 3, 8, 8))
    force(gated, [torch.zeros(layer.filters) for layer in gated.layout.layers])
    share = gated.layout.fixed_macs / gated.layout.dense_macs
    torch.testing.assert_close(gated(torch.rand(2, 3, 8, 8)).active_macs, torch.full((2, 1), share))


def reading(draw: st.DrawFn, earlier: int) -> dict[str, Any]:
    """What a reader may be said to read: some of the earlier layers, perhaps one twice, and other channels."""
    sources = tuple(draw(st.lists(st.integers(0, earlier - 1), max_size=4))) if earlier else ()
    return {"macs": draw(st.integers(0, 10**7)), "sources": sources, "ungated": draw(st.integers(0, 30))}


@st.composite
def layouts(draw: st.DrawFn) -> PathLayout:
    count = draw(st.integers(1, 6))
    layers = tuple(
        PathLayer(name=f"conv{index}", filters=draw(st.integers(1, 20)), **reading(draw, index))
        for index in range(count)
    )
    observers = tuple(
        PathLayer(name=f"observer{index}", filters=draw(st.integers(1, 5)), macs=0, observes=True)
        for index in range(draw(st.integers(0, 2)))
    )
    followers = tuple(
        Follower(name=f"depthwise{index}", **reading(draw, count)) for index in range(draw(st.integers(0, 3)))
    )
    return PathLayout(
        layers=layers + observers,
        fixed_macs=draw(st.integers(0, 10**6)),
        dense_macs=draw(st.integers(1, 10))
        + sum(layer.macs for layer in layers)
        + sum(each.macs for each in followers),
        followers=followers,
    )


@given(data=st.data(), layout=layouts())
def test_the_module_counts_as_the_layout_does(data: st.DataObject, layout: PathLayout) -> None:
    codes = data.draw(arrays.arrays(np.uint8, (3, layout.bits), elements=st.integers(0, 1)))
    counted = ActiveMacs(layout)(torch.from_numpy(codes).float())[:, 0].numpy()
    np.testing.assert_allclose(counted, layout.active_macs(codes), rtol=1e-6, atol=1e-6)


@given(data=st.data(), members=st.tuples(layouts(), layouts()))
def test_a_cascade_costs_what_its_members_cost_that_run(
    data: st.DataObject, members: tuple[PathLayout, PathLayout]
) -> None:
    dense = max(layout.dense_macs for layout in members)
    first, second = (replace(layout, dense_macs=dense) for layout in members)
    assume(all(each.sources or each.ungated for each in second.followers))  # they follow something
    both = joined(first, second)
    codes = data.draw(arrays.arrays(np.uint8, (3, both.bits), elements=st.integers(0, 1)))
    ran = codes[:, first.bits, None]
    codes[:, first.bits + 1 :] *= ran
    path = torch.from_numpy(codes).float()
    alone = ActiveMacs(first)(path[:, : first.bits]).numpy()
    more = ActiveMacs(second)(path[:, first.bits + 1 :]).numpy()
    np.testing.assert_allclose(ActiveMacs(both)(path).numpy(), alone + ran * more, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both.active_macs(codes), (alone + ran * more)[:, 0], rtol=1e-5, atol=1e-6)


@given(data=st.data(), layout=layouts())
def test_closing_a_filter_never_costs_more(data: st.DataObject, layout: PathLayout) -> None:
    codes = data.draw(arrays.arrays(np.uint8, (1, layout.bits), elements=st.integers(0, 1)))
    fewer = codes * data.draw(arrays.arrays(np.uint8, (1, layout.bits), elements=st.integers(0, 1)))
    module = ActiveMacs(layout)
    assert module(torch.from_numpy(fewer).float()) <= module(torch.from_numpy(codes).float()) + 1e-6


def test_cost_has_a_gradient_with_respect_to_soft_codes(chain: nn.Module) -> None:
    layout = attach_gates(chain, torch.zeros(1, 3, 8, 8)).layout
    codes = torch.full((1, layout.bits), 0.5, requires_grad=True)
    ActiveMacs(layout)(codes).sum().backward()
    assert codes.grad is not None
    wide, last = layout.layers
    # d/dz of (macs_wide d_wide + macs_last d_last d_wide) / dense at densities of one half
    expected = [
        (wide.macs + last.macs * 0.5) / wide.filters / layout.dense_macs,
        last.macs * 0.5 / last.filters / layout.dense_macs,
    ]
    np.testing.assert_allclose(codes.grad[0, [0, -1]].numpy(), expected, rtol=1e-5)
