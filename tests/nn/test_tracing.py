"""Networks that a tracer stumbles over, and how they are gated all the same."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.errors import SurgeryError
from penstock.nn.surgery import Finding, attach_gates

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Branch(nn.Module):
    """What it does depends on the values that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:  # the tracer stops here
            x = -x
        result: Tensor = self.inner(x)
        return result


class Net(nn.Module):
    """A network with such a part."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.before = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.branch = nn.Sequential(nn.ReLU(), Branch())
        self.after, self.linear = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.branch(self.before(self.stem(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def test_a_network_that_cannot_be_traced_is_refused_with_line_module_and_remedy() -> None:
    with pytest.raises(SurgeryError) as caught:
        attach_gates(Net().eval(), EXAMPLE)
    message = str(caught.value)
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, 1) if "the tracer stops here" in line)
    assert "Net cannot be traced: symbolically traced variables" in message
    assert f"at {__file__}:{number}" in message
    assert "leaves=['branch.1']" in message


def test_without_a_module_around_the_line_the_remedy_is_to_make_one() -> None:
    with pytest.raises(SurgeryError, match="move that line into a module of its own"):
        attach_gates(Branch().eval(), torch.zeros(1, 4, 8, 8))


LEFT = Finding("branch.1.inner", False, "inside branch.1, which is kept whole")


@pytest.mark.parametrize("leaf", ["branch.1", Branch])
def test_a_module_that_cannot_be_traced_may_be_kept_whole(leaf: str | type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = Net().eval()
    gated = attach_gates(network, EXAMPLE, leaves=[leaf])
    assert [layer.name for layer in gated.layout.layers] == ["before", "after"]
    assert LEFT in gated.report
    images = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(gated(images).logits, network(images))
    torch.testing.assert_close(gated(-images).logits, network(-images))
    products = 64 * (3 * 4 + 4 * 4 + 4 * 4 * 9 + 4 * 4) + 4 * 3
    assert gated.layout.dense_macs == products + 2 * 4 * 64  # two averages


def test_where_nothing_inside_is_chosen_a_module_is_kept_whole_by_itself() -> None:
    gated = attach_gates(Net().eval(), EXAMPLE, where=lambda name, _conv: name in ("before", "after"))
    assert [layer.name for layer in gated.layout.layers] == ["before", "after"]
    assert [finding.name for finding in gated.report if finding.reason.startswith("inside branch")] == [
        LEFT.name
    ]
    with pytest.raises(SurgeryError, match="cannot be traced"):
        attach_gates(Net().eval(), EXAMPLE, where=lambda name, _conv: name == LEFT.name)


@pytest.mark.parametrize("leaf", ["nowhere", nn.Conv3d])
def test_a_leaf_that_is_not_there_is_refused(leaf: str | type[nn.Module]) -> None:
    with pytest.raises(SurgeryError, match=r"leaves names .*, which Net does not have"):
        attach_gates(Net().eval(), EXAMPLE, leaves=[leaf])


class Dropping(nn.Module):
    """Functional dropouts: one that follows the mode, one that is always on."""

    def __init__(self, always: float) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 3)
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.conv(self.stem(x)), 0.5, training=self.training)
        if self.always:
            x = F.dropout(x, self.always, training=True)
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def test_functional_dropout_follows_the_mode_after_surgery() -> None:
    gated = attach_gates(Dropping(0.0).eval(), EXAMPLE)
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(gated(images).logits, gated(images).logits)
    for layer in gated.train().gated_layers:
        layer.gate.noise, layer.gate.hard_share = 0.0, 1.0
    assert not torch.equal(gated(images).logits, gated(images).logits)


def test_dropout_that_is_always_on_stays_on() -> None:
    gated = attach_gates(Dropping(0.5).eval(), EXAMPLE)
    images = torch.rand(1, 3, 8, 8)
    assert not torch.equal(gated(images).logits, gated(images).logits)


class Pair(NamedTuple):
    """Two results under names."""

    main: Tensor
    side: Tensor


class Several(nn.Module):
    """Answers in a structure of its own."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.stem, self.conv, self.side = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 5, 3)
        self.linear = nn.Linear(4, 3)
        self.form = form

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Pair | dict[str, Tensor]:
        x = F.relu(self.conv(self.stem(x)))
        main, side = self.linear(x.mean((2, 3))), self.side(x)
        if self.form == "dict":
            return {"main": main, "side": side}
        return Pair(main, side) if self.form == "named" else (main, side)


@pytest.mark.parametrize("form", ["tuple", "named", "dict"])
def test_several_outputs_come_back_as_the_network_gives_them(form: str) -> None:
    network = Several(form).eval()
    gated = attach_gates(network, EXAMPLE)
    assert [layer.name for layer in gated.layout.layers] == ["conv", "side"]
    images = torch.rand(2, 3, 8, 8)
    got, wanted = gated(images).logits, network(images)
    assert type(got) is type(wanted)
    torch.testing.assert_close(got, wanted)


def test_a_convolution_whose_filters_are_the_classes_is_left_unless_it_is_asked_for() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Dropout(), nn.Conv2d(4, 6, 1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    gated = attach_gates(network, EXAMPLE)
    assert gated.report[-1] == Finding("4", False, "its filters are the network's classes")
    asked = attach_gates(network, EXAMPLE, where=lambda _name, _conv: True)
    assert [layer.name for layer in asked.layout.layers] == ["0", "1", "4"]


class Odds(nn.Module):
    """Convolutions that get no gate: functional, transposed, one that stands in a row of three-dimensional ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.line = nn.Conv1d(4, 4, 1)
        self.weight = nn.Parameter(torch.ones(4, 4, 1, 1))
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.up(self.conv(self.stem(x))), self.weight)
        result: Tensor = self.line(x.flatten(2)).mean(2)
        return result


def test_convolutions_of_every_other_kind_are_reported() -> None:
    gated = attach_gates(Odds().eval(), EXAMPLE)
    assert {finding.name: finding.reason for finding in gated.report if not finding.gated} == {
        "stem": "first convolution: it sees the image itself",
        "up": "ConvTranspose2d: only Conv2d gets a gate",
        "conv2d": "functional: its weights belong to no Conv2d module",
        "line": "Conv1d: only Conv2d gets a gate",
        "unused": "not reached in evaluation",
    }
