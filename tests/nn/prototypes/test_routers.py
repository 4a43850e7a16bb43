"""Routers, and the gradients by which they learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from penstock.nn.routing import StageRouter
from penstock.nn.surgery import GatedNetwork
from tests.nn.prototypes.networks import consolidated


def router_of(count: int, *, channels: int = 5, filters: Sequence[int] = (4, 3)) -> StageRouter:
    router = StageRouter(channels, filters, count, 8)
    router.prototypes.bernoulli_(0.5)
    return router


@given(count=st.integers(1, 6), images=st.integers(0, 9), training=st.booleans(), seed=st.integers(0, 1000))
def test_a_router_gives_the_exact_bits_of_the_prototype_that_it_chose(
    count: int, images: int, training: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    router = router_of(count).train(training and images > 1)
    route = router(torch.randn(images, 5, 2, 2))
    assert torch.equal(torch.cat(route.codes, 1), router.prototypes[route.chosen])
    assert [code.shape[1] for code in route.codes] == [4, 3]
    if not router.training:
        assert torch.equal(route.chosen, route.logits.argmax(1))
    wanted = route.logits.softmax(1) @ router.prototypes - 0.5
    torch.testing.assert_close(torch.cat(route.soft_codes, 1), wanted)


def test_the_gradient_of_the_codes_is_that_of_the_softmax() -> None:
    torch.manual_seed(0)
    router = router_of(3)
    router.noise = False
    x, weights = torch.randn(6, 5, 2, 2, requires_grad=True), torch.randn(6, 7)
    for training in (False, True):
        route = router.train(training)(x)
        straight = torch.autograd.grad((torch.cat(route.codes, 1) * weights).sum(), x, retain_graph=True)
        soft = torch.autograd.grad((route.logits.softmax(1) @ router.prototypes * weights).sum(), x)
        torch.testing.assert_close(straight, soft)
        assert straight[0].abs().sum() > 0


def test_without_gradients_codes_are_the_same_bits() -> None:
    router = router_of(4).eval()
    x = torch.randn(50, 5, 2, 2)
    with torch.no_grad():
        bare = router(x)
    assert torch.equal(torch.cat(bare.codes, 1), torch.cat(router(x).codes, 1))


def test_noise_makes_routers_try_prototypes_as_often_as_they_believe_in_them() -> None:
    torch.manual_seed(0)
    router = router_of(3).train()
    nn.init.zeros_(router.expand.weight)
    with torch.no_grad():
        router.expand.bias.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    tried = torch.bincount(router(torch.randn(20_000, 5, 1, 1)).chosen, minlength=3) / 20_000
    torch.testing.assert_close(tried, torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.02)
    router.noise = False
    assert router(torch.randn(500, 5, 1, 1)).chosen.sum() == 0


def test_the_task_reaches_every_router_and_every_norm(gated: dict[str, GatedNetwork]) -> None:
    torch.manual_seed(0)
    for own_norms in (False, True):
        network = consolidated(gated["residual"], 4, own_norms=own_norms).train()
        network(torch.rand(6, 3, 16, 16)).logits.square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        for router in network.routers:
            assert router.reduce.weight.grad is not None
            assert router.reduce.weight.grad.abs().sum() > 0
    single = consolidated(gated["residual"], 1).train()
    single(torch.rand(6, 3, 16, 16)).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in single.parameters())
