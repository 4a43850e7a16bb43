"""What networks with prototypes answer and what that costs."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from penstock.nn.prototypes import (
    PrototypeConfig,
    attach_prototypes,
    set_prototypes,
    stages_by_size,
)
from penstock.nn.surgery import GatedNetwork, attach_gates
from tests.nn.prototypes.networks import NETWORKS, Force, choose, codes_of, consolidated, example, lived_in


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 3])
def test_with_all_prototypes_open_nothing_changes(
    name: str, count: int, gated: dict[str, GatedNetwork], force: Force
) -> None:
    stages = stages_by_size(gated[name])
    network = attach_prototypes(gated[name], PrototypeConfig(count=count, stages=stages))
    whole = force(
        copy.deepcopy(gated[name]), [torch.ones(layer.filters) for layer in gated[name].layout.layers]
    )
    images = torch.rand(4, *example(name).shape[1:])
    with torch.no_grad():
        output, wanted = network(images), whole(images)
    torch.testing.assert_close(output.logits, wanted.logits, rtol=1e-5, atol=1e-5)
    assert torch.cat(output.codes, 1).min() == 1
    assert [logits.shape for logits in output.router_logits] == [(4, count)] * len(stages)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("own_norms", [False, True])
def test_a_prototype_is_the_gated_network_under_its_bits(
    name: str, own_norms: bool, gated: dict[str, GatedNetwork], force: Force
) -> None:
    torch.manual_seed(1)
    network = consolidated(gated[name], 3, own_norms=own_norms)
    images = torch.rand(3, *example(name).shape[1:])
    for chosen in range(3):
        choose(network, chosen)
        codes = codes_of(network, chosen)
        masked = force(copy.deepcopy(gated[name]), codes)
        with torch.no_grad():
            output, wanted = network(images), masked(images)
        torch.testing.assert_close(output.logits, wanted.logits, rtol=1e-5, atol=1e-5)
        assert torch.equal(torch.cat(output.codes, 1), torch.cat(codes).expand(3, -1))
        for mine, theirs in zip(output.responses, wanted.responses, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_prototype_may_close_whole_layers(gated: dict[str, GatedNetwork], force: Force) -> None:
    for name in ("chain", "residual", "squeezenet1_1"):
        network = consolidated(gated[name], 2)
        set_prototypes(network, [torch.zeros_like(router.prototypes) for router in network.routers])
        masked = force(
            copy.deepcopy(gated[name]), [torch.zeros(layer.filters) for layer in gated[name].layout.layers]
        )
        images = torch.rand(2, *example(name).shape[1:])
        with torch.no_grad():
            torch.testing.assert_close(network(images).logits, masked(images).logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_is_answered_alike_alone_and_in_a_batch(name: str, gated: dict[str, GatedNetwork]) -> None:
    torch.manual_seed(2)
    network = lived_in(consolidated(gated[name], 3), name)
    images = torch.rand(7, *example(name).shape[1:])
    with torch.no_grad():
        together, alone = network(images), [network(image) for image in torch.split(images, 1)]
    assert torch.equal(torch.cat(together.codes, 1), torch.cat([torch.cat(one.codes, 1) for one in alone]))
    torch.testing.assert_close(
        together.logits, torch.cat([one.logits for one in alone]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 4])
def test_cost_is_that_of_the_path_without_gates_and_with_routers(
    name: str, count: int, gated: dict[str, GatedNetwork], force: Force
) -> None:
    torch.manual_seed(3)
    source = gated[name]
    network = consolidated(source, count, hidden=7)
    entering: dict[str, torch.Size] = {}
    hooks = [
        source.body.get_submodule(layer.name).register_forward_hook(
            lambda _module, inputs, _output, name=layer.name: entering.update({name: inputs[0].shape[1:]})
        )
        for layer in source.layout.layers
    ]
    with torch.no_grad():
        masked = force(copy.deepcopy(source), codes_of(network, 0))(example(name))
        source(example(name))
    for hook in hooks:
        hook.remove()
    gates = sum(
        layer.gate.macs + entering[place.name].numel()
        for layer, place in zip(source.gated_layers, source.layout.layers, strict=True)
    )
    firsts = [
        source.layout.layers[sum(network.config.stages[:index])] for index in range(len(network.routers))
    ]
    shapes = [entering[layer.name] for layer in firsts]
    routers = sum(shape[0] * 7 + 7 * count + shape.numel() for shape in shapes) if count > 1 else 0
    if count > 1:
        choose(network, 0)
    with torch.no_grad():
        share = network(example(name)).active_macs.item()
    wanted = masked.active_macs.item() + (routers - gates) / source.layout.dense_macs
    assert share == pytest.approx(wanted, abs=1e-6)
    path = torch.cat(codes_of(network, 0))[None].numpy()
    assert share == pytest.approx(network.layout.active_macs(path)[0], abs=1e-6)


def test_a_network_with_several_outputs_keeps_them() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
            self.main, self.side = nn.Linear(6, 5), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            pooled = self.conv(self.stem(x).relu()).relu().mean((2, 3))
            return {"main": self.main(pooled), "side": self.side(pooled)}

    original = Two().eval()
    source = attach_gates(original, torch.zeros(1, 3, 8, 8))
    network = attach_prototypes(source, PrototypeConfig(count=2, stages=(1,)))
    images = torch.rand(3, 3, 8, 8)
    output, wanted = network(images), original(images)
    assert isinstance(output.logits, dict)
    for name, value in wanted.items():
        torch.testing.assert_close(output.logits[name], value)


def test_under_bfloat16_codes_stay_bits_and_logits_of_routers_single(gated: dict[str, GatedNetwork]) -> None:
    network = consolidated(gated["residual"], 3).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(torch.rand(8, 3, 16, 16))
    path = torch.cat(output.codes, 1).float()
    assert torch.equal(path, path.round())
    assert all(logits.dtype == torch.float32 for logits in output.router_logits)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_hard_choices_cost_what_their_prototypes_cost(seed: int, gated: dict[str, GatedNetwork]) -> None:
    torch.manual_seed(seed)
    network = consolidated(gated["chain"], 3)
    for router in network.routers:
        nn.init.normal_(router.expand.weight, std=3.0)
    with torch.no_grad():
        output = network(torch.rand(9, 3, 16, 16))
    chosen = [logits.argmax(1) for logits in output.router_logits]
    paths = torch.cat(
        [router.prototypes[k] for router, k in zip(network.routers, chosen, strict=True)], dim=1
    )
    assert torch.equal(paths, torch.cat(output.codes, 1))
    torch.testing.assert_close(
        output.active_macs[:, 0].double(),
        torch.from_numpy(network.layout.active_macs(paths.numpy())),
        rtol=0,
        atol=1e-6,
    )
