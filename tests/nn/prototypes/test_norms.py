"""Norms of their own for each prototype."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from penstock.nn.routing import RoutedConv2d, RoutedNorm
from penstock.nn.surgery import GatedNetwork
from tests.nn.prototypes.networks import consolidated


@given(
    chosen=st.lists(st.integers(0, 3), min_size=0, max_size=12),
    size=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_routed_norms_normalise_each_image_as_its_own_norm_does_to_the_bit(
    chosen: list[int], size: int, seed: int
) -> None:
    torch.manual_seed(seed)
    norms = RoutedNorm(nn.BatchNorm2d(3), 4)
    for norm in norms.norms:
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    norms.eval()
    x = torch.randn(len(chosen), 3, size, size)
    with torch.no_grad():
        together = norms(x, torch.tensor(chosen, dtype=torch.int64))
        alone = [norms.norms[k](x[i : i + 1]) for i, k in enumerate(chosen)]
    assert together.shape == x.shape
    assert torch.equal(together, torch.cat([*alone, x[:0]]))


def test_a_group_of_one_value_per_channel_is_normalised_by_what_was_seen_before() -> None:
    norms = RoutedNorm(nn.BatchNorm2d(3), 3).train()
    x = torch.randn(4, 3, 1, 1)
    output = norms(x, torch.tensor([0, 1, 0, 0]))
    wanted = norms.norms[1].eval()(x[1:2])
    assert torch.equal(output[1:2], wanted)
    seen = [norms.get_buffer(f"norms.{k}.running_mean") for k in (0, 1)]
    assert (seen[0] != 0).all()
    assert (seen[1] == 0).all()


def test_norms_of_unused_prototypes_get_a_gradient_of_zero_and_keep_their_statistics() -> None:
    norms = RoutedNorm(nn.BatchNorm2d(3), 2).train()
    norms(torch.randn(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64)).square().sum().backward()
    unused = norms.norms[1]
    assert isinstance(unused, nn.BatchNorm2d)
    assert unused.weight.grad is not None
    assert unused.weight.grad.abs().sum() == 0
    assert torch.equal(unused.running_mean, torch.zeros(3))  # type: ignore[arg-type]


def test_the_last_layers_of_a_stage_may_be_one_pixel_wide_in_training(gated: dict[str, GatedNetwork]) -> None:
    torch.manual_seed(0)
    network = consolidated(gated["mobilenet_v2"], 5).train()
    output = network(torch.rand(6, 3, 32, 32))
    output.logits.sum().backward()
    assert output.logits.isfinite().all()


def test_gates_without_batch_norm_get_no_norms(gated: dict[str, GatedNetwork]) -> None:
    network = consolidated(gated["squeezenet1_1"], 2)
    assert not any(isinstance(module, RoutedNorm) for module in network.modules())
    assert sum(isinstance(module, RoutedConv2d) for module in network.modules()) == 24
