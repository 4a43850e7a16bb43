from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch

from penstock.bundle import Calibration
from penstock.errors import VerificationError
from penstock.export.building import Builder
from penstock.export.capture.contract import Answer, ServedModel
from penstock.export.capture.exporting import capture
from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.nodes.gated_conv import codes, gate_logits, pooled_input, read_gated_conv
from penstock.export.runtime import Outputs, open_graph
from penstock.export.verify.extremes import verify_extremes
from penstock.export.verify.parity import MARGIN, Reference, reference, verify, verify_flags
from penstock.nn.cascade import Cascade
from penstock.paths import PathLayer, PathLayout

LAYOUT = PathLayout(
    layers=(
        PathLayer(name="early", filters=3, macs=10),
        PathLayer(name="middle", filters=2, macs=10),
        PathLayer(name="late", filters=3, macs=10),
    ),
    fixed_macs=5,
    dense_macs=35,
)
IMAGES = 60
SomeImages = Callable[..., npt.NDArray[np.uint8]]


@dataclass
class Case:
    """What PyTorch said, and what a graph said that agrees until a test damages it."""

    expected: Reference
    got: Outputs

    def verify(self) -> Any:
        return verify(self.expected, self.got, LAYOUT)

    def flip(self, image: int, bit: int, margin: float) -> None:
        """Let the graph's bit differ, where it was so far from flipping in PyTorch."""
        self.expected.margins[image, bit] = margin
        self.got["path"][image, bit] ^= 1


@pytest.fixture
def case() -> Case:
    draw = np.random.default_rng(0)
    logits = (draw.normal(size=(IMAGES, LAYOUT.bits)) + 3).astype(np.float32)
    path = (logits > 0).astype(np.uint8)
    outputs: Outputs = {
        "logits": draw.normal(size=(IMAGES, 4)).astype(np.float32),
        "path": path,
        "active_macs": LAYOUT.active_macs(path).astype(np.float32)[:, None],
        "anomaly_score": (100 * draw.normal(size=(IMAGES, 1))).astype(np.float32),
        "adversarial": np.zeros((IMAGES, 1), np.bool_),
    }
    answer = Answer(**{name: torch.from_numpy(value.copy()) for name, value in outputs.items()})
    return Case(Reference(answer, np.abs(logits)), outputs)


def test_equal_answers_agree(case: Case) -> None:
    parity = case.verify()
    assert (parity.images, parity.bits_flipped, parity.images_flipped) == (IMAGES, 0, 0)
    assert (parity.max_abs, parity.score_max_abs, parity.top1_agreement) == (0, 0, 1)


def test_small_differences_are_reported(case: Case) -> None:
    case.got["logits"][2, 1] += 5e-5
    case.got["anomaly_score"] *= np.float32(1 + 3e-5)
    parity = case.verify()
    assert parity.max_abs == pytest.approx(5e-5, rel=0.01)
    assert parity.score_max_abs == pytest.approx(3e-5, rel=0.01)  # relative: the scores are large


@pytest.mark.parametrize("name", ["logits", "anomaly_score", "active_macs"])
@pytest.mark.parametrize("damage", [3e-4, -3e-4, float("nan"), float("inf")])
def test_a_shifted_output_is_refused_by_name(name: str, damage: float, case: Case) -> None:
    scale = max(1.0, float(np.abs(case.got[name][3, 0]))) if name == "anomaly_score" else 1.0
    case.got[name][3, 0] += np.float32(damage * scale)
    with pytest.raises(VerificationError, match=f"{name} differs from PyTorch by"):
        case.verify()


@pytest.mark.parametrize(("bit", "layer"), [(0, "early"), (2, "early"), (3, "middle"), (7, "late")])
@pytest.mark.parametrize("margin", [2 * MARGIN, 5.0])
def test_a_far_bit_is_refused_with_its_layer(bit: int, layer: str, margin: float, case: Case) -> None:
    case.flip(1, bit, margin)
    with pytest.raises(VerificationError, match=f"1 path bits .* the first layer that breaks is {layer}$"):
        case.verify()


def test_the_first_of_several_broken_layers_is_named(case: Case) -> None:
    case.flip(1, 6, 5.0)
    case.flip(4, 3, 5.0)
    with pytest.raises(VerificationError, match="the first layer that breaks is middle"):
        case.verify()


@pytest.mark.parametrize("margin", [0.5 * MARGIN, 0.0])
def test_bits_inside_the_margin_are_counted_and_their_images_not_compared(margin: float, case: Case) -> None:
    case.flip(1, 0, margin)
    case.flip(1, 2, margin)
    case.flip(4, 4, margin)
    case.got["logits"][1] += 50
    case.got["anomaly_score"][4] += 50
    parity = case.verify()
    assert (parity.bits_flipped, parity.images_flipped) == (3, 2)
    assert parity.top1_agreement >= (IMAGES - 2) / IMAGES


def test_what_follows_from_a_bit_inside_the_margin_is_no_error(case: Case) -> None:
    case.flip(1, 0, 0.0)
    case.flip(1, 5, 4.0)  # a later layer of the same image saw something else
    parity = case.verify()
    assert (parity.bits_flipped, parity.images_flipped) == (1, 1)


def test_a_bit_inside_the_margin_excuses_no_other_image_and_no_earlier_layer(case: Case) -> None:
    case.flip(1, 3, 0.0)
    case.flip(2, 5, 4.0)
    with pytest.raises(VerificationError, match="the first layer that breaks is late"):
        case.verify()
    case.flip(2, 5, 4.0)
    case.flip(1, 0, 4.0)
    with pytest.raises(VerificationError, match="the first layer that breaks is early"):
        case.verify()


@pytest.mark.parametrize(("flipped", "allowed"), [(3, True), (4, False), (IMAGES, False)])
def test_at_most_a_twentieth_of_the_images_may_take_another_path(
    flipped: int, allowed: bool, case: Case
) -> None:
    for image in range(flipped):
        case.flip(image, 0, 0.0)
    if allowed:
        assert case.verify().images_flipped == flipped
    else:
        with pytest.raises(
            VerificationError, match=f"{flipped / IMAGES:.0%} of the images took another path"
        ):
            case.verify()


def test_a_flag_must_follow_from_score_and_threshold(case: Case) -> None:
    scores = case.got["anomaly_score"]
    calibration = Calibration(detector="any", target_fpr=0.05, threshold=10.0, images=99, source="graph")
    case.got["adversarial"] = scores > 10.0
    verify_flags(case.got, calibration)
    case.got["adversarial"][7] ^= True
    with pytest.raises(VerificationError, match=f"1 of {IMAGES} flags"):
        verify_flags(case.got, calibration)


def test_a_score_that_is_no_number_must_be_flagged(case: Case) -> None:
    case.got["anomaly_score"][3] = np.nan
    with pytest.raises(VerificationError, match=f"1 of {IMAGES} flags"):
        verify_flags(case.got, None)
    case.got["adversarial"][3] = True
    verify_flags(case.got, None)


@pytest.mark.parametrize("lowering", [Masked(), Gathered()], ids=lambda lowering: lowering.name)
@pytest.mark.parametrize(
    ("operator", "position", "factor", "message"),
    [
        ("Conv", 1, 1.01, "differs from PyTorch|first layer that breaks is"),
        ("Gemm", 2, -10.0, "first layer that breaks is block1.conv1"),
    ],
    ids=["a filter's weights", "a gate's bias"],
)
def test_a_damaged_graph_is_refused(
    lowering: Lowering,
    operator: str,
    position: int,
    factor: float,
    message: str,
    captured: dict[str, Any],
    some_images: SomeImages,
    to_bytes: Callable[[ir.Model], bytes],
) -> None:
    model = captured["residual"].lowered(lowering)
    nodes = [node for node in model.graph if node.op_type == operator]
    value = nodes[0 if operator == "Conv" else 1].inputs[position]  # the second Gemm gives the gate's logits
    assert value is not None
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=value.name)
    got = open_graph(to_bytes(model), single=lowering.single, threads=1).run(some_images(50))
    served = captured["residual"].served
    with pytest.raises(VerificationError, match=message):
        verify(reference(served, some_images(50)), got, served.network.layout)


class Unmasked:
    """A wrong lowering: right as long as every gate is open."""

    name = "unmasked"
    single = False
    skips = False
    mask = False

    def lower(self, model: ir.Model) -> None:
        for node in list(model.graph):
            conv = read_gated_conv(node)
            if conv is None:
                continue
            build = Builder(model.graph, conv.layer)
            logits = gate_logits(build, conv, pooled_input(build, conv.x))
            tensors = (build.constant(conv.weight, "weight"), build.constant(conv.bias, "bias"))
            output = build.op("Conv", conv.x, *tensors, **conv.conv_attributes)
            if conv.relu:
                output = build.op("Relu", output)
            code = codes(build, logits)
            if self.mask:
                half = np.arange(conv.filters)[:, None, None] < conv.filters // 2
                output = build.op("Mul", output, build.constant(half.astype(np.float32), "half"))
            build.replace(node, (output, code, logits))


class Halved(Unmasked):
    """A wrong lowering: runs only the first half of the filters, whatever the gates say."""

    mask = True


@pytest.mark.parametrize("network", ["chain", "residual"])
@pytest.mark.parametrize(
    ("lowering", "gates"), [(Unmasked(), "closed"), (Halved(), "open")], ids=["unmasked", "halved"]
)
def test_a_wrong_lowering_shows_with_all_gates_open_or_closed(
    lowering: Lowering, gates: str, network: str, captured: dict[str, Any], some_images: SomeImages
) -> None:
    each = captured[network]
    with pytest.raises(VerificationError, match=f"^with all gates {gates}: "):
        verify_extremes(each.model, each.served, lowering, some_images(3))


@pytest.mark.parametrize("lowering", [Masked(), Gathered()], ids=lambda lowering: lowering.name)
def test_a_right_lowering_passes_at_the_extremes(
    lowering: Lowering, captured: dict[str, Any], some_images: SomeImages
) -> None:
    for each in captured.values():
        verify_extremes(each.model, each.served, lowering, some_images(3))


class Hurried(Unmasked):
    """A wrong lowering: opens gates that are within a thousandth of it."""

    def lower(self, model: ir.Model) -> None:
        for conv in filter(None, map(read_gated_conv, list(model.graph))):
            bias = np.where(np.abs(conv.expand_bias) < 1e-3, np.abs(conv.expand_bias), conv.expand_bias)
            fresh = Builder(model.graph, conv.layer).constant(bias, "opened")
            conv.node.replace_input_with(len(conv.node.inputs) - 1, fresh)
        Masked().lower(model)


def test_a_wrong_lowering_shows_where_gates_are_near_to_flipping(
    captured: dict[str, Any], some_images: SomeImages
) -> None:
    each, hurried = captured["chain"], Hurried()
    with pytest.raises(VerificationError, match=r"^with all gates near to flipping: .* path bits differ"):
        verify_extremes(each.model, each.served, cast(Lowering, hurried), some_images(3))


@pytest.fixture(scope="module")
def cascaded(captured: dict[str, Any]) -> Any:
    """A cascade of two members with gates, captured."""
    first, second = (copy.deepcopy(captured["chain"].served.network) for _ in range(2))
    served = ServedModel(Cascade(first, second, threshold=0.3, blend=0.3), None).eval()
    return type(captured["chain"])(served, capture(served, (3, 8, 8)))


class OfMember:
    """A wrong lowering: all gates of one member of a cascade say the same, whatever they see."""

    name = "of member"
    single = False
    skips = False

    def __init__(self, member: str, logit: float) -> None:
        self.member = member
        self.logit = logit

    def lower(self, model: ir.Model) -> None:
        for conv in filter(None, map(read_gated_conv, list(model.graph))):
            if conv.layer.startswith(self.member):
                bias = np.full_like(conv.expand_bias, self.logit)
                conv.node.replace_input_with(
                    len(conv.node.inputs) - 1, Builder(model.graph, conv.layer).constant(bias, "wrong")
                )
        Masked().lower(model)


@pytest.mark.parametrize("member", ["first", "second"])
@pytest.mark.parametrize(("logit", "gates"), [(1.0, "closed"), (-1.0, "open")])
def test_gates_inside_cascades_are_forced_too(
    logit: float, gates: str, member: str, cascaded: Any, some_images: SomeImages
) -> None:
    verify_extremes(cascaded.model, cascaded.served, Masked(), some_images(3))
    wrong = cast(Lowering, OfMember(member, logit))
    how = f"^with all gates {gates}, prototype 0 in every stage, .*first layer that breaks is {member}"
    with pytest.raises(VerificationError, match=how):
        verify_extremes(cascaded.model, cascaded.served, wrong, some_images(3))


def test_forcing_gates_leaves_other_readers_of_a_shared_tensor_alone(
    captured: dict[str, Any], some_images: SomeImages
) -> None:
    # The exporter merges equal tensors, for instance a fresh gate's bias with a batch norm's.
    each = captured["residual"].with_gates(
        [
            layer.gate.expand.bias.detach().numpy().copy()
            for layer in captured["residual"].served.network.gated_layers
        ]
    )
    nodes = [conv for node in each.model.graph if (conv := read_gated_conv(node))]
    first = nodes[0].node
    gate_bias = first.inputs[-1]
    first.replace_input_with(2, gate_bias)  # the convolution's own bias
    layer = each.served.network.gated_layers[0]
    assert gate_bias is not None
    assert gate_bias.const_value is not None
    with torch.no_grad():
        norm = layer.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.copy_(torch.from_numpy(gate_bias.const_value.numpy().copy()) + scale * norm.running_mean)
    verify_extremes(each.model, each.served, Masked(), some_images(3))
