import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from penstock.errors import SurgeryError
from penstock.nn.backbones import build_backbone
from penstock.nn.gates import Gate, GateConfig
from penstock.nn.surgery import Finding, GatedNetwork, attach_gates

Force = Callable[[GatedNetwork, Sequence[Tensor]], GatedNetwork]

BACKBONES = ("digits-cnn", "resnet20", "resnet32", "resnet56")
TINY = ("chain", "residual")
FIRST = "first convolution: it sees the image itself"


def example_for(name: str) -> Tensor:
    return torch.zeros(1, 1, 8, 8) if name == "digits-cnn" else torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def originals(chain: nn.Module, residual: nn.Module) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    networks = {name: build_backbone(name, 10) for name in BACKBONES}
    for network in networks.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, std=0.1)
        network.eval()
    return networks | {"chain": chain, "residual": residual}


def all_ones(network: GatedNetwork) -> list[Tensor]:
    return [torch.ones(layer.filters) for layer in network.layout.layers]


def where_to_silence(name: str) -> str:
    """The module whose output a gate on the convolution ``name`` masks."""
    after = {"wide": "wide_relu", "last": "last_relu"}
    return after.get(name) or name.replace("conv1", "relu").replace("conv2", "bn2")


@pytest.mark.parametrize("name", [*BACKBONES, *TINY])
@pytest.mark.parametrize("normalize", [False, True])
def test_with_all_gates_open_nothing_changes(
    name: str, normalize: bool, originals: dict[str, nn.Module], force: Force
) -> None:
    original, example = originals[name], example_for(name)
    gated = attach_gates(original, example, GateConfig(normalize=normalize))
    force(gated, all_ones(gated))
    images = torch.rand(6, *example.shape[1:])
    with torch.no_grad():
        output, wanted = gated(images), original(images)
    torch.testing.assert_close(output.logits, wanted, rtol=0, atol=1e-5)
    assert all(code.all() for code in output.codes)


@pytest.mark.parametrize("name", TINY)
@given(seed=st.integers(0, 2**31), density=st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_a_mask_equals_silencing_those_filters_of_the_original(
    name: str, seed: int, density: float, originals: dict[str, nn.Module], force: Force
) -> None:
    original = originals[name]
    gated = attach_gates(original, example_for(name))
    draw = torch.Generator().manual_seed(seed)
    codes = [(torch.rand(layer.filters, generator=draw) < density).float() for layer in gated.layout.layers]
    force(gated, codes)
    images = torch.rand(2, 3, 8, 8, generator=draw)
    hooks = [
        original.get_submodule(where_to_silence(layer.name)).register_forward_hook(
            lambda _module, _inputs, output, code=code: output * code[:, None, None]
        )
        for layer, code in zip(gated.layout.layers, codes, strict=True)
    ]
    try:
        with torch.no_grad():
            wanted, output = original(images), gated(images)
    finally:
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(output.logits, wanted, rtol=0, atol=1e-5)
    assert torch.equal(torch.cat(output.codes, dim=1), torch.cat(codes).expand(2, -1))


@pytest.mark.parametrize("name", TINY)
def test_an_image_is_answered_alike_alone_and_in_a_batch(name: str, originals: dict[str, nn.Module]) -> None:
    torch.manual_seed(5)
    gated = attach_gates(originals[name], example_for(name), GateConfig(initial_logit=0.0))
    images = torch.rand(7, 3, 16, 16)
    with torch.no_grad():
        together, alone = gated(images), [gated(image) for image in torch.split(images, 1)]
    assert torch.equal(torch.cat(together.codes, 1), torch.cat([torch.cat(one.codes, 1) for one in alone]))
    torch.testing.assert_close(together.logits, torch.cat([one.logits for one in alone]))


@pytest.mark.parametrize("training", [False, True])
def test_the_given_network_stays_as_it_was_and_its_mode_is_kept(training: bool, residual: nn.Module) -> None:
    original = copy.deepcopy(residual).train(training)
    before = {name: value.clone() for name, value in original.state_dict().items()}
    names = [name for name, _ in original.named_modules()]
    gated = attach_gates(original, example_for("residual"))
    gated.train()(torch.rand(4, 3, 16, 16)).logits.sum().backward()
    for name, value in original.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in original.parameters())
    assert [name for name, _ in original.named_modules()] == names
    assert original.training is training


@pytest.mark.parametrize("training", [False, True])
def test_a_gated_network_is_in_the_mode_of_the_one_given(training: bool, chain: nn.Module) -> None:
    gated = attach_gates(copy.deepcopy(chain).train(training), example_for("chain"))
    assert {module.training for module in gated.modules()} == {training}


def test_switching_to_training_makes_codes_soft_and_back_makes_them_bits(chain: nn.Module) -> None:
    torch.manual_seed(0)
    gated = attach_gates(chain, example_for("chain"))
    images = torch.rand(40, 3, 16, 16)
    soft = torch.cat(gated.train()(images).codes, dim=1)
    hard = torch.cat(gated.eval()(images).codes, dim=1)
    assert ((soft > 0) & (soft < 1)).any()
    assert set(hard.flatten().tolist()) <= {0.0, 1.0}


def test_a_dropout_of_the_network_works_after_surgery_too() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(5)]
    network = nn.Sequential(*layers)
    network(torch.zeros(1, 3, 8, 8))
    gated = attach_gates(network.eval(), torch.zeros(1, 3, 8, 8))
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(gated(images).logits, gated(images).logits)
    for layer in gated.train().gated_layers:
        layer.gate.noise, layer.gate.hard_share = 0.0, 1.0
    assert not torch.equal(gated(images).logits, gated(images).logits)


@pytest.mark.parametrize("name", ["resnet20", *TINY])
def test_state_dict_names_every_tensor_once_and_shares_none(
    name: str, originals: dict[str, nn.Module]
) -> None:
    gated = attach_gates(originals[name], example_for(name), GateConfig(normalize=True))
    state = gated.state_dict()
    assert len({value.untyped_storage().data_ptr() for value in state.values()}) == len(state)
    # Each tensor of the original is there once; what is new belongs to gates.
    kept = [value for key, value in state.items() if ".gate." not in key]
    assert len(kept) == len(originals[name].state_dict())


def test_parameter_names_tell_the_layer(residual: nn.Module) -> None:
    names = dict(attach_gates(residual, example_for("residual")).named_parameters())
    assert {
        "body.stem.weight",
        "body.block1.conv1.conv.weight",
        "body.block1.conv1.norm.weight",
        "body.block1.conv1.gate.reduce.weight",
        "body.block1.conv1.gate.expand.bias",
        "body.linear.bias",
    } <= set(names)


def test_layout_and_report_follow_the_network(residual: nn.Module) -> None:
    gated = attach_gates(residual, example_for("residual"))
    names = ["block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2"]
    assert [layer.name for layer in gated.layout.layers] == names
    assert [layer.filters for layer in gated.layout.layers] == [8, 8, 16, 16]
    assert gated.report == (Finding("stem", False, FIRST), *(Finding(name, True) for name in names))
    assert [layer.gate.expand.out_features for layer in gated.gated_layers] == [8, 8, 16, 16]


class Mixed(nn.Module):
    """Holds a convolution of every kind that surgery must tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.shared = nn.Conv2d(8, 8, 1)
        self.plain = nn.Conv2d(8, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.shared(self.shared(self.depthwise(x))).relu()
        logits: Tensor = self.linear(self.norm(self.plain(x)).flatten(1))
        return logits


def test_every_convolution_is_reported_with_the_reason_it_was_left() -> None:
    gated = attach_gates(Mixed().eval(), torch.zeros(1, 3, 8, 8))
    assert gated.report == (
        Finding("stem", False, FIRST),
        Finding("depthwise", False, "depthwise (8 groups), and no gate rules what it reads"),
        Finding("shared", False, "shared: called 2 times"),
        Finding("shared", False, "shared: called 2 times"),
        Finding("plain", True),
    )


def test_where_chooses(chain: nn.Module) -> None:
    asked = []

    def where(name: str, conv: nn.Conv2d) -> bool:
        asked.append((name, conv.out_channels))
        return name in ("stem", "last")

    gated = attach_gates(chain, example_for("chain"), where=where)
    assert asked == [("stem", 8), ("wide", 12), ("last", 10)]
    assert gated.report == (
        Finding("stem", True),
        Finding("wide", False, "not chosen"),
        Finding("last", True),
    )


def test_a_reader_of_the_unmasked_value_keeps_the_group_apart() -> None:
    class Forked(nn.Module):
        """Its batch norm is read twice, so the ReLU behind one reader is not the group's."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.norm, self.linear = nn.BatchNorm2d(4), nn.Linear(4 * 16, 5)

        def forward(self, x: Tensor) -> Tensor:
            whole = self.norm(self.conv(self.stem(x)))
            logits: Tensor = self.linear((F.relu(whole) + whole).view(x.shape[0], -1))
            return logits

    network = Forked().eval()
    gated = attach_gates(network, torch.zeros(1, 3, 8, 8))
    (layer,) = gated.gated_layers
    assert isinstance(layer.norm, nn.BatchNorm2d)
    assert isinstance(layer.activation, nn.Identity)
    layer.gate.expand.weight.data.zero_()
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(gated(images).logits, network(images))


def test_what_is_called_relu_and_is_none_is_not_taken_for_one() -> None:
    layers = {"stem": nn.Conv2d(3, 4, 3), "conv": nn.Conv2d(4, 4, 3), "relu": nn.Identity()}
    network = nn.Sequential(OrderedDict(layers)).eval()
    gated = attach_gates(network, torch.zeros(1, 3, 8, 8))
    (layer,) = gated.gated_layers
    assert isinstance(layer.activation, nn.Identity)


def test_gates_are_made_where_the_network_lies(chain: nn.Module) -> None:
    network = copy.deepcopy(chain).to("meta")  # stands for a GPU
    gated = attach_gates(network, torch.zeros(1, 3, 16, 16, device="meta"))
    assert {tensor.device.type for tensor in (*gated.parameters(), *gated.buffers())} == {"meta"}


def test_responses_are_unmasked_and_gate_logits_explain_the_codes(chain: nn.Module, force: Force) -> None:
    gated = attach_gates(chain, example_for("chain"))
    force(gated, [torch.zeros(layer.filters) for layer in gated.layout.layers])
    output = gated(torch.rand(3, 3, 16, 16))
    assert [response.shape for response in output.responses] == [(3, 12), (3, 10)]
    assert output.responses[0].abs().sum() > 0
    for code, logits in zip(output.codes, output.gate_logits, strict=True):
        assert torch.equal(code, (logits > 0).float())


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8, 8), (1, 3, 8)])
def test_an_example_that_is_not_one_image_is_refused(shape: tuple[int, ...], chain: nn.Module) -> None:
    with pytest.raises(SurgeryError, match=r"one image, \[1, C, H, W\]"):
        attach_gates(chain, torch.zeros(shape))


class Branching(nn.Module):
    """What it does depends on the values that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        result: Tensor = self.conv(x)
        return result


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Branching(), "Branching cannot be traced"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3)),
            "cannot be traced: .* to have 1 channels, but got 3",
        ),  # the example has three channels
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), "the network has none"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), f"0: {FIRST}"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4)), r"1: depthwise \(4 groups\)"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.LocalResponseNorm(2), nn.Conv2d(4, 4, 3)),
            r"MACs of 1 \(LocalResponseNorm\): name it in leaves=\['1'\]",
        ),
    ],
    ids=["branching", "wrong channels", "no convolution", "only the first", "only depthwise", "unknown cost"],
)
def test_a_network_that_cannot_be_gated_is_refused_with_the_reason(
    network: nn.Module, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SurgeryError, match=message):
        attach_gates(network, torch.zeros(1, 3, 8, 8))
    assert capfd.readouterr() == ("", "")


def test_gates_are_made_as_configured(chain: nn.Module) -> None:
    config = GateConfig(reduction=2, normalize=True, initial_logit=0.25)
    for layer in attach_gates(chain, example_for("chain"), config).gated_layers:
        gate: Gate = layer.gate
        assert gate.reduce.out_features == layer.conv.in_channels // 2
        assert isinstance(gate.normalize, nn.BatchNorm1d)
        assert set(gate.expand.bias.tolist()) == {0.25}
