"""Attaching prototypes to a network with gates."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.gates import GateConfig
from penstock.nn.prototypes import (
    PrototypeConfig,
    attach_prototypes,
    set_prototypes,
    stages_by_size,
)
from penstock.nn.surgery import GatedNetwork, attach_gates
from tests.nn.prototypes.networks import consolidated, example


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


def test_state_dict_names_every_tensor_once_and_shares_none(gated: dict[str, GatedNetwork]) -> None:
    for count in (1, 3):
        state = consolidated(gated["resnet20"], count).state_dict()
        pointers = {value.untyped_storage().data_ptr() for value in state.values()}
        assert len(pointers) == len(state)
        assert any(".norms.2." in name for name in state) is (count == 3)
        assert any("routers.0.reduce" in name for name in state) is (count == 3)


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
