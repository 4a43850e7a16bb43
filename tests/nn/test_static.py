"""A compact network with one path against the masked one that it was made from."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision.models as models
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.backbones import build_backbone
from penstock.nn.prototypes import (
    ConsolidatedNetwork,
    PrototypeConfig,
    attach_prototypes,
    set_prototypes,
    stages_by_size,
)
from penstock.nn.routing import RoutedConv2d
from penstock.nn.static import StaticConv2d, compact, write_back
from penstock.nn.surgery import GatedNetwork, attach_gates

SIZES = {"resnet20": 32, "squeezenet1_1": 64, "mobilenet_v2": 32}


@pytest.fixture(scope="module")
def gated(chain: nn.Module, residual: nn.Module) -> dict[str, GatedNetwork]:
    torch.manual_seed(0)
    networks = {
        "chain": chain,
        "residual": residual,
        "resnet20": build_backbone("resnet20", 10),
        "squeezenet1_1": models.squeezenet1_1(num_classes=10),
        "mobilenet_v2": models.mobilenet_v2(num_classes=10),
    }
    return {name: attach_gates(network.eval(), images(name, 1) * 0) for name, network in networks.items()}


def images(name: str, count: int) -> Tensor:
    return torch.rand(count, 3, SIZES.get(name, 16), SIZES.get(name, 16))


def single(network: GatedNetwork, density: float) -> ConsolidatedNetwork:
    routed = attach_prototypes(network, PrototypeConfig(count=1, stages=stages_by_size(network)))
    set_prototypes(
        routed, [torch.bernoulli(torch.full_like(router.prototypes, density)) for router in routed.routers]
    )
    return routed


def stepped(network: ConsolidatedNetwork, batches: list[Tensor]) -> ConsolidatedNetwork:
    """After some steps of training."""
    torch.manual_seed(7)  # of dropout
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for batch in batches:
        optimizer.zero_grad()
        labels = torch.arange(len(batch)) % 5
        torch.autograd.backward(nn.functional.cross_entropy(network(batch).logits, labels))
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize("name", ["chain", "residual", *SIZES])
def test_a_compact_network_answers_as_the_masked_one(name: str, gated: dict[str, GatedNetwork]) -> None:
    torch.manual_seed(1)
    network = single(gated[name], 0.5)
    small = compact(network)
    batch = images(name, 3)
    with torch.no_grad():
        output, wanted = small(batch), network(batch)
    torch.testing.assert_close(output.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.cat(output.codes, 1), torch.cat(wanted.codes, 1))
    assert torch.equal(output.active_macs, wanted.active_macs)
    for own, masked, code in zip(output.responses, wanted.responses, wanted.codes, strict=True):
        torch.testing.assert_close(own, masked * code, rtol=1e-4, atol=1e-5)


def test_it_holds_the_open_filters_and_channels_only(gated: dict[str, GatedNetwork]) -> None:
    torch.manual_seed(1)
    network = single(gated["chain"], 0.5)
    wide, last = (int(router.prototypes.sum()) for router in network.routers)
    small = compact(network).body
    assert small.get_parameter("wide.conv.weight").shape == (wide, 8, 3, 3)
    assert small.get_buffer("wide.norm.running_mean").shape == (wide,)
    assert small.get_parameter("last.conv.weight").shape == (last, wide, 3, 3)


@settings(max_examples=25)
@given(density=st.sampled_from([0.0, 0.1, 0.5, 1.0]), seed=st.integers(0, 10_000))
def test_any_path_can_be_compact_also_one_that_closes_whole_layers(
    density: float, seed: int, gated: dict[str, GatedNetwork]
) -> None:
    torch.manual_seed(seed)
    for name in ("chain", "residual"):
        network = single(gated[name], density)
        batch = images(name, 2)
        with torch.no_grad():
            torch.testing.assert_close(
                compact(network)(batch).logits, network(batch).logits, rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("name", ["chain", "residual", "mobilenet_v2"])
def test_training_it_is_training_the_masked_one(name: str, gated: dict[str, GatedNetwork]) -> None:
    """In double precision: batch norms of maps of one pixel enlarge what rounding does in every step."""
    torch.manual_seed(2)
    network = single(gated[name], 0.5)
    network.body.double()
    for router in network.routers:
        router.float()
    batches = [images(name, 6).double() for _ in range(3)]
    home = copy.deepcopy(network)
    write_back(stepped(compact(network), batches), home)
    masked = stepped(copy.deepcopy(network), batches)
    batch = images(name, 4).double()
    with torch.no_grad():
        torch.testing.assert_close(home(batch).logits, masked(batch).logits, rtol=1e-7, atol=1e-7)
        assert not torch.allclose(home(batch).logits, network(batch).logits, atol=1e-3)


def test_what_it_learned_comes_home_and_weights_that_no_path_uses_become_zeros(
    gated: dict[str, GatedNetwork],
) -> None:
    torch.manual_seed(3)
    network = single(gated["residual"], 0.5)
    before = copy.deepcopy(network.state_dict())
    small = stepped(compact(network), [images("residual", 6)])
    write_back(small, network)
    batch = images("residual", 4)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(batch).logits, small(batch).logits, rtol=1e-5, atol=1e-5)
    code = network.routers[0].prototypes[0, :8].bool()
    name = "body.block1.conv1.conv.weight"
    after = network.state_dict()[name]
    assert not after[~code].any()
    assert not torch.equal(after[code], before[name][code])


def test_the_masked_network_is_left_as_it_was(gated: dict[str, GatedNetwork]) -> None:
    torch.manual_seed(4)
    network = single(gated["residual"], 0.5)
    before = copy.deepcopy(network.state_dict())
    stepped(compact(network), [images("residual", 6)])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(isinstance(module, StaticConv2d) for module in network.modules())


def test_what_cannot_be_told_apart_is_read_whole(gated: dict[str, GatedNetwork]) -> None:
    torch.manual_seed(5)
    small = compact(single(gated["squeezenet1_1"], 0.5)).body
    squeeze = small.get_submodule("features.4.squeeze")  # behind the concatenation of two gated layers
    expand = small.get_submodule("features.4.expand1x1")
    assert squeeze.whole
    assert expand.conv.in_channels == squeeze.conv.out_channels  # type: ignore[union-attr]


def test_grouped_convolutions_and_learned_activations_stay_masked() -> None:
    torch.manual_seed(6)
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 6, 3), nn.PReLU(6)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).eval()
    routed = single(attach_gates(network, torch.zeros(1, 3, 12, 12)), 0.5)
    small = compact(routed)
    assert isinstance(small.body.get_submodule("1"), RoutedConv2d)
    assert isinstance(small.body.get_submodule("2"), RoutedConv2d)
    batch = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(small(batch).logits, routed(batch).logits)


def test_several_prototypes_are_not_static(gated: dict[str, GatedNetwork]) -> None:
    network = attach_prototypes(gated["chain"], PrototypeConfig(count=2, stages=(1, 1)))
    with pytest.raises(InvalidArgumentError, match="has 2 prototypes; one can be static"):
        compact(network)
