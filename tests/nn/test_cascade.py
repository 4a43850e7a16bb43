"""Cascades against their members, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torchvision.models as models
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.nn.cascade import RAN, Cascade, confidence, joined, threshold_for
from penstock.nn.gates import GateConfig
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import PrototypeConfig, attach_prototypes, set_prototypes
from penstock.nn.surgery import GatedNetwork, attach_gates
from penstock.paths import Follower, PathLayer, PathLayout

Force = Callable[[GatedNetwork, Sequence[Tensor]], GatedNetwork]
IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def members(residual: nn.Module) -> tuple[PathNetwork, PathNetwork]:
    """A network with gates, whose paths differ between images, and one with three prototypes a stage."""
    torch.manual_seed(0)
    small = attach_gates(residual, IMAGE, GateConfig(normalize=True, initial_logit=0.0))
    small.train()
    small(torch.rand(32, 3, 16, 16))
    large = attach_prototypes(attach_gates(residual, IMAGE), PrototypeConfig(count=3, stages=(2, 2)))
    set_prototypes(
        large, [torch.bernoulli(torch.full_like(router.prototypes, 0.8)) for router in large.routers]
    )
    return small.eval(), large.eval()


def median(members: tuple[PathNetwork, PathNetwork], images: Tensor) -> float:
    """The confidence that half of the images exceed."""
    with torch.no_grad():
        return confidence(members[0](images).logits).median().item()


def test_each_image_is_answered_by_the_first_if_it_is_sure_and_else_by_the_second(
    members: tuple[PathNetwork, PathNetwork],
) -> None:
    images = torch.rand(9, 3, 16, 16)
    cascade = Cascade(*members, median(members, images), blend=0.25).eval()
    with torch.no_grad():
        output, first, second = cascade(images), members[0](images), members[1](images)
    sure = confidence(first.logits) >= cascade.threshold
    assert 0 < sure.sum() < 9
    wanted = torch.where(sure[:, None], first.logits, second.logits + 0.25 * first.logits)
    torch.testing.assert_close(output.logits, wanted, rtol=1e-5, atol=1e-6)
    ran = cascade.layout.names.index(RAN)
    assert torch.equal(output.codes[ran][:, 0], (~sure).float())
    assert torch.equal(torch.cat(output.codes[:ran], 1), torch.cat(first.codes, 1))
    theirs = torch.cat(second.codes, 1) * ~sure[:, None]
    assert torch.equal(torch.cat(output.codes[ran + 1 :], 1), theirs)
    gate_logits = torch.cat(output.gate_logits[ran + 1 :], 1)
    assert (gate_logits[sure] == -0.5).all()
    torch.testing.assert_close(gate_logits[~sure], torch.cat(second.gate_logits, 1)[~sure])
    responses = torch.cat(output.responses[ran + 1 :], 1)
    torch.testing.assert_close(
        responses, torch.cat(second.responses, 1) * ~sure[:, None], rtol=1e-4, atol=1e-6
    )


def test_it_costs_the_first_and_for_unsure_images_the_second_too(
    members: tuple[PathNetwork, PathNetwork],
) -> None:
    images = torch.rand(9, 3, 16, 16)
    cascade = Cascade(*members, median(members, images)).eval()
    with torch.no_grad():
        output, first, second = cascade(images), members[0](images), members[1](images)
    unsure = confidence(first.logits) < cascade.threshold
    wanted = first.active_macs + unsure[:, None] * second.active_macs
    torch.testing.assert_close(output.active_macs, wanted, rtol=0, atol=1e-6)
    path = torch.cat(output.codes, 1).numpy()
    np.testing.assert_allclose(cascade.layout.active_macs(path), wanted[:, 0], atol=1e-6)


@pytest.mark.parametrize("threshold", [0.0, math.inf], ids=["all are sure", "nobody is sure"])
def test_one_member_may_answer_everything(threshold: float, members: tuple[PathNetwork, PathNetwork]) -> None:
    images = torch.rand(4, 3, 16, 16)
    cascade = Cascade(*members, threshold).eval()
    with torch.no_grad():
        output, alone = cascade(images), members[int(threshold > 0)](images)
    assert torch.equal(output.logits, alone.logits)
    assert all(logits.isfinite().all() for logits in output.gate_logits)


def test_an_image_is_answered_alike_alone_in_a_batch_and_in_none(
    members: tuple[PathNetwork, PathNetwork],
) -> None:
    images = torch.rand(8, 3, 16, 16)
    cascade = Cascade(*members, median(members, images) + 1e-4).eval()
    with torch.no_grad():
        together, alone = cascade(images), [cascade(image) for image in torch.split(images, 1)]
        nothing = cascade(images[:0])
    assert torch.equal(torch.cat(together.codes, 1), torch.cat([torch.cat(one.codes, 1) for one in alone]))
    torch.testing.assert_close(
        together.logits, torch.cat([one.logits for one in alone]), rtol=1e-5, atol=1e-6
    )
    assert nothing.logits.shape == (0, 5)
    assert torch.cat(nothing.codes, 1).shape == (0, cascade.layout.bits)


def test_an_answer_exactly_at_the_threshold_is_the_firsts(members: tuple[PathNetwork, PathNetwork]) -> None:
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        sure = confidence(members[0](image).logits).item()
        at = Cascade(*members, sure).eval()(image)
        above = Cascade(*members, math.nextafter(sure, 2) + 1e-7).eval()(image)
    ran = len(members[0].layout.layers)
    assert (at.codes[ran].item(), above.codes[ran].item()) == (0, 1)


def test_the_answer_has_a_gradient_whoever_gave_it(members: tuple[PathNetwork, PathNetwork]) -> None:
    images = torch.rand(6, 3, 16, 16)
    cascade = Cascade(*members, median(members, images)).eval()
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(cascade(images).logits.square().sum(), images)
    assert (gradient.abs().sum((1, 2, 3)) > 0).all()


def test_under_bfloat16_members_may_answer_in_their_own_precisions(
    members: tuple[PathNetwork, PathNetwork],
) -> None:
    images = torch.rand(6, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = Cascade(*members, median(members, images)).eval()(images)
    assert output.logits.isfinite().all()


def test_what_follows_gates_costs_nothing_where_the_member_did_not_run() -> None:
    torch.manual_seed(0)
    network = models.mobilenet_v2(num_classes=10).eval()
    example = torch.zeros(1, 3, 32, 32)
    small, large = attach_gates(network, example), attach_gates(network, example)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        output = Cascade(small, large, 0.0).eval()(images)
        torch.testing.assert_close(output.active_macs, small(images).active_macs, rtol=0, atol=1e-6)


@given(first=st.booleans(), ran=st.booleans(), bit=st.booleans(), ungated=st.integers(0, 3))
def test_joined_layouts_count_followers_of_ungated_channels_only_where_they_ran(
    first: bool, ran: bool, bit: bool, ungated: int
) -> None:
    layout = PathLayout(
        layers=(PathLayer(name="a", filters=1, macs=20),),
        fixed_macs=30,
        dense_macs=100,
        followers=(Follower(name="b", macs=50, sources=(0,), ungated=ungated),),
    )
    both = joined(layout, layout)
    assert both.names == ("first.a", RAN, "second.a")
    share = both.active_macs(np.array([[first, ran, bit and ran]], np.uint8))[0]
    alone = [layout.active_macs(np.array([[own]], np.uint8))[0] for own in (first, bit and ran)]
    assert share == pytest.approx(alone[0] + ran * alone[1])


def test_members_of_different_networks_are_refused(chain: nn.Module, residual: nn.Module) -> None:
    with pytest.raises(InvalidArgumentError, match="a cascade takes two paths of the same network"):
        Cascade(attach_gates(chain, IMAGE), attach_gates(residual, IMAGE))


def test_a_first_member_with_several_outputs_is_refused(residual: nn.Module) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = residual

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.inner(x)
            return logits, logits

    network = attach_gates(Pair().eval(), IMAGE)
    with pytest.raises(UnsupportedError, match="answers with a tuple; a cascade compares"):
        Cascade(network, network)(torch.rand(2, 3, 16, 16))


COSTS = st.floats(0.05, 1.0)


@given(
    sure=st.lists(st.sampled_from([0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0]), min_size=1, max_size=20),
    data=st.data(),
)
def test_the_threshold_is_the_highest_that_keeps_to_the_budget(
    sure: list[float], data: st.DataObject
) -> None:
    count = len(sure)
    first = np.array(data.draw(st.lists(COSTS, min_size=count, max_size=count)))
    second = np.array(data.draw(st.lists(COSTS, min_size=count, max_size=count)))
    budget = data.draw(st.floats(float(first.mean()) + 1e-6, 2.1))
    found = threshold_for(torch.tensor(sure), torch.from_numpy(first), torch.from_numpy(second), budget)
    own = np.array(sure, np.float32)

    def cost(threshold: float) -> float:
        return float((first + second * (own < threshold)).mean())

    assert cost(found) <= budget + 1e-9
    if math.isinf(found):
        assert cost(2.0) <= budget + 1e-9
    else:
        beyond = own[own >= found].min()  # those of this confidence would be too many
        assert cost(np.nextafter(beyond, np.float32(2))) > budget - 1e-9
        below = own[own < beyond]
        if len(below):
            assert found == pytest.approx((below.max() + beyond) / 2)  # as far from both as can be
        else:
            assert found == beyond


def test_a_budget_below_the_first_member_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"costs 0\.500 of the dense MACs; the budget is 0\.400"):
        threshold_for(torch.rand(5), torch.full((5,), 0.5), torch.full((5,), 0.5), 0.4)
