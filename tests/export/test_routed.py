"""Networks with prototypes and cascades, compiled so that only what an image's path needs is run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import UnsupportedError, VerificationError
from penstock.export.lowerings.executed import Executed, Prototypes
from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.nodes.regions import inner_graphs
from penstock.export.passes.reporting import Report
from penstock.export.verify.extremes import verify_extremes
from penstock.export.verify.parity import reference, verify
from penstock.nn.cascade import RAN, Cascade
from penstock.report.routes import read_prototypes

Images = npt.NDArray[np.uint8]
SomeImages = Callable[..., Images]
Floats = npt.NDArray[np.float32]
Named = Callable[[str], Any]

CASCADES = ("cascade", "backed")
NETWORKS = ("chain", "residual", "fire", "inverted", "odd", "static", *CASCADES)
LOWERINGS: dict[str, Callable[[], Lowering]] = {
    "masked": Masked,
    "grouped": Routed,
    "single": lambda: Routed(single=True),
}
ROUTED = ("grouped", "single")
MODES = ("mixed", "closed", "one", "hole", "open")


def prototype(mode: str, filters: list[int], draw: np.random.Generator) -> Floats:
    """Bits of one prototype: any, none, one in each layer, any but with a layer closed, all."""
    layers = [draw.integers(0, 2, count) for count in filters]
    if mode == "hole":
        layers[draw.integers(len(layers))][:] = 0
    elif mode == "one":
        layers = [np.arange(len(layer)) == draw.integers(len(layer)) for layer in layers]
    elif mode != "mixed":
        layers = [np.full(len(layer), mode == "open") for layer in layers]
    return np.concatenate(layers).astype(np.float32)


def with_drawn(captured: Any, mode: Callable[[], str], draw: np.random.Generator) -> Any:
    return captured.with_prototypes(
        [
            np.stack([prototype(mode(), router.filters, draw) for _ in range(router.count)])
            for router in captured.routers.values()
        ]
    )


def check(captured: Any, images: Images) -> None:
    """Every lowering answers as PyTorch does: logits, costs and scores to 1e-4, and the same bits."""
    expected = reference(captured.served, images)
    for lowering in LOWERINGS.values():
        got = captured.opened(lowering()).run(images)
        assert verify(expected, got, captured.served.network.layout).images_flipped == 0
        for name, value in expected.answer._asdict().items():
            assert (got[name].dtype, got[name].shape) == (value.numpy().dtype, value.shape), name


@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=6)
@given(data=st.data(), count=st.integers(1, 7), seed=st.integers(0, 2**31))
def test_any_prototypes_are_compiled_to_what_pytorch_answers(
    network: str, data: st.DataObject, count: int, seed: int, routed: Named, some_images: SomeImages
) -> None:
    draw = np.random.default_rng(seed)
    forced = with_drawn(routed(network), lambda: data.draw(st.sampled_from(MODES)), draw)
    check(forced, some_images(count, seed=seed))


@pytest.mark.parametrize("mode", ["closed", "one", "open"])
@pytest.mark.parametrize("network", ["fire", "inverted", "cascade"])
def test_all_prototypes_may_be_closed_or_open_at_once(
    network: str, mode: str, routed: Named, some_images: SomeImages
) -> None:
    check(with_drawn(routed(network), lambda: mode, np.random.default_rng(0)), some_images(5))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_tiny_networks_take_every_prototype_and_tell_images_apart(
    network: str, routed: Named, some_images: SomeImages
) -> None:
    each = routed(network)
    answer = reference(each.served, some_images(60)).answer
    assert answer.logits.std(dim=0).max() > 1e-3
    paths = len({tuple(path) for path in answer.path.tolist()})
    stages = [router.count for router in each.routers.values()]
    assert paths >= max(stages) * (2 if network == "backed" else 1)


@pytest.mark.parametrize("network", NETWORKS)
def test_choices_are_counted_as_pytorch_makes_them(
    network: str, routed: Named, some_images: SomeImages
) -> None:
    each, images = routed(network), some_images(60)
    own, layout = each.served.network, each.served.network.layout
    executed = Routed().lower(each.model.clone())
    assert isinstance(executed, Prototypes)
    path = reference(each.served, images).answer.path.numpy()
    found = {choice.place: choice.images for choice in executed.choices(layout, path)}
    wanted = {}
    if isinstance(own, Cascade):
        ran = path[:, layout.slices[layout.names.index(RAN)]][:, 0] == 1
        wanted = {RAN: (60 - ran.sum(), ran.sum())}
        own, images = (own.second, images[ran]) if network == "cascade" else (own.first, images)
    stages = read_prototypes(own, images)
    counts = [
        tuple(np.bincount(chosen, minlength=len(bits)))
        for chosen, bits in zip(stages.chosen.T, stages.bits, strict=True)
    ]
    assert {place: images for place, images in found.items() if place == RAN} == wanted
    assert [images for place, images in found.items() if place != RAN and len(images) > 1] == [
        images for images in counts if len(images) > 1
    ]
    assert (network == "static") == all(len(images) == 1 for images in found.values())


@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=10)
@given(order=st.permutations(range(12)), batch=st.integers(1, 12))
def test_an_answer_does_not_depend_on_the_batch(
    network: str, order: list[int], batch: int, routed: Named, some_images: SomeImages
) -> None:
    graph = grouped(routed, network)
    images = some_images(12)
    together, again = graph.run(images), graph.run(images[order], batch=batch)
    for name in ("logits", "path", "active_macs", "adversarial"):
        np.testing.assert_array_equal(again[name], together[name][order], err_msg=name)
    # The detector's sums over many bits are added in an order that ONNX Runtime takes from the batch.
    np.testing.assert_allclose(again["anomaly_score"], together["anomaly_score"][order], rtol=1e-5, atol=1e-5)


OPENED: dict[str, Any] = {}


def grouped(routed: Named, network: str) -> Any:
    if network not in OPENED:
        OPENED[network] = routed(network).opened(Routed())
    return OPENED[network]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_answers_that_are_no_numbers_are_flagged_wherever_the_image_is_broken(
    lowering: str, network: str, routed: Named, some_images: SomeImages
) -> None:
    graph = routed(network).opened(LOWERINGS[lowering]())
    for row, column in itertools.product((0, 3, 7), repeat=2):
        for value in (np.nan, np.inf, -np.inf):
            broken = some_images(1).astype(np.float32) / 255
            broken[0, 1, row, column] = value
            logits, flags = graph.session.run(["logits", "adversarial"], {"images": broken})
            assert flags.all() or np.isfinite(logits).all(), (row, column, value)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_image_that_is_no_image_is_flagged_and_breaks_no_other(
    network: str, routed: Named, some_images: SomeImages
) -> None:
    graph = grouped(routed, network)
    images = some_images(9).astype(np.float32) / 255
    broken = images.copy()
    broken[4, 1, 2, 3] = np.nan
    others = np.arange(len(images)) != 4
    for name in ("logits", "path", "active_macs", "adversarial"):
        (whole,), (damaged,) = (graph.session.run([name], {"images": each}) for each in (images, broken))
        np.testing.assert_array_equal(damaged[others], whole[others], err_msg=name)
    assert damaged[4].all()


@pytest.mark.parametrize("lowering", ROUTED)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_routed_network_is_a_plain_and_old_enough_onnx_file(
    network: str, lowering: str, routed: Named, to_bytes: Callable[[ir.Model], bytes]
) -> None:
    before = to_bytes(routed(network).model)
    model = onnx.load_model_from_string(to_bytes(routed(network).lowered(LOWERINGS[lowering]())))
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert not model.functions
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert (batch.dim_param, batch.dim_value) == (("", 1) if lowering == "single" else ("batch", 0))
    assert to_bytes(routed(network).model) == before


def parts(graph: ir.Graph) -> list[ir.Graph]:
    """A graph and all that are inside it."""
    return [graph, *(part for node in graph for inner in inner_graphs(node) for part in parts(inner))]


def nodes(graph: ir.Graph) -> list[ir.Node]:
    """All nodes, those of inner graphs included."""
    return [node for part in parts(graph) for node in part]


@pytest.mark.parametrize("lowering", ROUTED)
def test_one_prototype_is_a_static_network_without_branch_or_router(
    lowering: str, routed: Named, to_bytes: Callable[[ir.Model], bytes]
) -> None:
    each = routed("static")
    model = each.lowered(LOWERINGS[lowering]())
    kinds = [node.op_type for node in nodes(model.graph)]
    assert "If" not in kinds
    assert kinds.count("Gemm") == 1  # the classifier
    assert "Slice" not in kinds  # what would look at a map to know that there is nothing to choose
    assert len(to_bytes(model)) < len(to_bytes(each.lowered(Masked())))


@pytest.mark.parametrize("lowering", ROUTED)
def test_a_router_that_is_nearly_undecided_may_choose_otherwise_and_is_counted(
    lowering: str, routed: Named, some_images: SomeImages
) -> None:
    each, images = routed("chain"), some_images(60)
    with torch.no_grad():
        logits = each.served.network(torch.from_numpy(images).float() / 255).router_logits[1]
    behind = logits.amax(1) - logits[:, 2]
    closest, farther = behind[behind > 0].sort().values[:2].tolist()
    assert farther - closest > 1e-4  # so that only one image flips
    own = [router.expand.bias.detach().numpy() for router in each.routers.values()]

    def favouring(captured: Any, bias: float, **how: bool) -> Any:
        return captured.with_routers([own[0], own[1] + np.array([0, 0, bias], np.float32)], **how)

    def answered(bias: float) -> tuple[Any, Any]:
        """In PyTorch that image is nearly for prototype 2; the graph's router favours it by so much more."""
        near = favouring(each, closest - 1e-5)
        other = favouring(near, closest - 1e-5 + bias, in_pytorch=False)
        return reference(near.served, images), other.opened(LOWERINGS[lowering]()).run(images)

    layout = each.served.network.layout
    parity = verify(*answered(2e-5), layout)
    assert parity.images_flipped == 1
    assert parity.bits_flipped >= 1
    with pytest.raises(VerificationError, match=f"the first layer that breaks is {layout.names[2]}$"):
        verify(*answered(0.5), layout)


class Damaged(Routed):
    """A wrong lowering: the weights of one prototype are a little off."""

    def __init__(self, prototype: int, *, single: bool) -> None:
        super().__init__(single)
        self.prototype = prototype

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        executed = super().lower(model, report)
        damaged = [
            part for part in parts(model.graph) if str(part.name).endswith(f"prototype{self.prototype}")
        ]
        for value in (value for part in damaged for value in part.initializers.values()):
            if value.shape is not None and len(value.shape) == 4 and value.const_value is not None:
                array = value.const_value.numpy() * np.float32(1.05)
                value.const_value = ir.tensor(array, name=value.name)
        return executed


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(
    ("network", "choice", "named"),
    [
        ("residual", 0, "prototype 0 in every stage"),
        ("residual", 1, "prototype 1 in every stage"),
        ("residual", 2, "prototype 2 in every stage"),
        ("cascade", 0, "prototype 0 in every stage, both members"),
        ("cascade", 2, "prototype 2 in every stage, both members"),
        ("backed", 0, "prototype 0 in every stage, the first member alone"),
    ],
)
def test_every_prototype_is_checked(
    network: str, choice: int, named: str, single: bool, routed: Named, some_images: SomeImages
) -> None:
    each = with_drawn(routed(network), lambda: "open", np.random.default_rng(0))
    verify_extremes(each.model, each.served, Routed(single), some_images(2))
    with pytest.raises(VerificationError, match=f"^with {named}: logits differs"):
        verify_extremes(each.model, each.served, Damaged(choice, single=single), some_images(2))


def test_gates_are_refused_by_routed_and_prototypes_by_gathered(
    captured: dict[str, Any], routed: Named
) -> None:
    with pytest.raises(UnsupportedError, match=r"has gates, .* gathered, or masked for a cascade"):
        captured["chain"].lowered(Routed())
    for network in ("chain", "static", "cascade"):
        with pytest.raises(UnsupportedError, match=r"prototypes or is a cascade.* take the lowering routed"):
            routed(network).lowered(Gathered())
