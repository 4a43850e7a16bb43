"""Consolidated networks against the gated networks whose stages they share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision.models as models
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.backbones import build_backbone
from penstock.nn.gates import GateConfig
from penstock.nn.prototypes import (
    ConsolidatedNetwork,
    PrototypeConfig,
    attach_prototypes,
    set_prototypes,
    stages_by_size,
)
from penstock.nn.routing import RoutedConv2d, RoutedNorm, StageRouter
from penstock.nn.surgery import GatedNetwork, attach_gates

Force = Callable[[GatedNetwork, Sequence[Tensor]], GatedNetwork]
NETWORKS = ("chain", "residual", "resnet20", "squeezenet1_1", "densenet40", "mobilenet_v2")
SIZES = {"chain": 16, "residual": 16, "squeezenet1_1": 64}


@pytest.fixture(scope="module")
def gated(chain: nn.Module, residual: nn.Module) -> dict[str, GatedNetwork]:
    """Every network with gates; weights and batch norms that leave no layer without effect."""
    torch.manual_seed(0)
    plain: dict[str, nn.Module] = {"chain": chain, "residual": residual}
    for name in ("resnet20", "densenet40"):
        plain[name] = build_backbone(name, 10)
    plain["squeezenet1_1"] = models.squeezenet1_1(num_classes=10)
    plain["mobilenet_v2"] = models.mobilenet_v2(num_classes=10)
    for name, network in plain.items():
        if network not in (chain, residual):
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.7, 1.3)
                    nn.init.normal_(module.bias, std=0.2)
            network.eval()
        plain[name] = network
    return {name: attach_gates(network, example(name)) for name, network in plain.items()}


def example(name: str) -> Tensor:
    size = SIZES.get(name, 32)
    return torch.zeros(1, 3, size, size)


def consolidated(network: GatedNetwork, count: int, **config: Any) -> ConsolidatedNetwork:
    """With random prototypes, and batch norms of each prototype that differ from the others'."""
    stages = config.pop("stages", stages_by_size(network))
    routed = attach_prototypes(network, PrototypeConfig(count=count, stages=stages, **config))
    set_prototypes(
        routed, [torch.bernoulli(torch.full_like(router.prototypes, 0.6)) for router in routed.routers]
    )
    return routed


def choose(network: ConsolidatedNetwork, chosen: int) -> None:
    """Let every router pick one prototype, whatever it sees."""
    for router in network.routers:
        nn.init.zeros_(router.expand.weight)
        with torch.no_grad():
            router.expand.bias.copy_(10.0 * (torch.arange(router.count) == chosen))


def codes_of(network: ConsolidatedNetwork, chosen: int) -> list[Tensor]:
    path = torch.cat([router.prototypes[chosen] for router in network.routers])
    return [path[part] for part in network.layout.slices]


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


def lived_in(network: ConsolidatedNetwork, name: str) -> ConsolidatedNetwork:
    """Routers that choose differently for different images, and norms of prototypes that have seen different ones."""
    for router in network.routers:
        nn.init.normal_(router.expand.weight, std=3.0)
    network.train()
    for _ in range(3):
        network(torch.rand(12, *example(name).shape[1:]))
    return network.eval()


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
    torch.testing.assert_close(torch.cat(route.opinions, 1), wanted)


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


def test_the_last_layers_of_a_stage_may_be_one_pixel_wide_in_training(gated: dict[str, GatedNetwork]) -> None:
    torch.manual_seed(0)
    network = consolidated(gated["mobilenet_v2"], 5).train()
    output = network(torch.rand(6, 3, 32, 32))
    output.logits.sum().backward()
    assert output.logits.isfinite().all()


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


def test_stages_end_where_the_size_changes(gated: dict[str, GatedNetwork]) -> None:
    assert stages_by_size(gated["chain"]) == (1, 1)
    assert stages_by_size(gated["residual"]) == (2, 2)
    assert stages_by_size(gated["resnet20"]) == (6, 6, 6)
    assert stages_by_size(gated["squeezenet1_1"]) == (6, 6, 12)
    for network in gated.values():
        assert sum(stages_by_size(network)) == len(network.layout.layers)


def test_the_given_network_stays_as_it_was_and_its_mode_is_kept(gated: dict[str, GatedNetwork]) -> None:
    source = copy.deepcopy(gated["residual"])
    before = copy.deepcopy(source.state_dict())
    for training in (False, True):
        network = consolidated(source.train(training), 2)
        assert {module.training for module in network.modules()} == {training}
        network.train()(torch.rand(4, 3, 16, 16)).logits.sum().backward()
        assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
        assert all(parameter.grad is None for parameter in source.parameters())
        assert source.training is training


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


def test_state_dict_names_every_tensor_once_and_shares_none(gated: dict[str, GatedNetwork]) -> None:
    for count in (1, 3):
        state = consolidated(gated["resnet20"], count).state_dict()
        pointers = {value.untyped_storage().data_ptr() for value in state.values()}
        assert len(pointers) == len(state)
        assert any(".norms.2." in name for name in state) is (count == 3)
        assert any("routers.0.reduce" in name for name in state) is (count == 3)


def test_gates_without_batch_norm_get_no_norms(gated: dict[str, GatedNetwork]) -> None:
    network = consolidated(gated["squeezenet1_1"], 2)
    assert not any(isinstance(module, RoutedNorm) for module in network.modules())
    assert sum(isinstance(module, RoutedConv2d) for module in network.modules()) == 24


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count is 0 and hidden 32"),
        ({"hidden": 0}, "hidden 0; both must be positive"),
        ({"stages": ()}, "at least one gated layer"),
        ({"stages": (2, 0)}, "at least one gated layer"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        replace(PrototypeConfig(count=2, stages=(2,)), **changes)


def test_what_does_not_fit_the_network_is_refused(gated: dict[str, GatedNetwork]) -> None:
    with pytest.raises(InvalidArgumentError, match="hold 5 gated layers; the network has 4"):
        attach_prototypes(gated["residual"], PrototypeConfig(count=2, stages=(2, 3)))
    network = consolidated(gated["residual"], 2)
    with pytest.raises(InvalidArgumentError, match="has prototypes already"):
        attach_prototypes(network, network.config)
    with pytest.raises(InvalidArgumentError, match=r"shape \(3, 16\); this stage needs \(2, 16\)"):
        set_prototypes(network, [torch.ones(3, 16), torch.ones(2, 32)])
    with pytest.raises(InvalidArgumentError, match="prototypes of 1 stages; the network has 2"):
        set_prototypes(network, [torch.ones(2, 16)])
    with pytest.raises(InvalidArgumentError, match="other values than 0 and 1"):
        set_prototypes(network, [torch.full((2, 16), 0.5), torch.ones(2, 32)])


def test_a_users_module_with_the_routers_name_is_not_overwritten() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.routers = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
            self.main = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            pooled: Tensor = self.routers(self.stem(x).relu()).relu().mean((2, 3))
            return self.main(pooled)  # type: ignore[no-any-return]

    source = attach_gates(Named().eval(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(InvalidArgumentError, match=r"named 'routers', .* another name"):
        attach_prototypes(source, PrototypeConfig(count=2, stages=(1,)))


def test_gates_that_normalise_are_replaced_too(residual: nn.Module) -> None:
    source = attach_gates(residual, example("residual"), GateConfig(normalize=True))
    network = consolidated(source, 2)
    assert not any("gate" in name for name, _ in network.named_modules())
