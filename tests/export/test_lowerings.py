from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.export.lowerings.gathered import Gathered, Picking
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.verify.parity import reference


def turned(captured: Any) -> Gathered:
    """All convolutions whose weights are picked as transposed ones."""
    names = frozenset(captured.served.network.layout.names)
    return Gathered(Picking(turned=names, turned_readers=names))


LOWERINGS: dict[str, Callable[[Any], Lowering]] = {
    "masked": lambda _: Masked(),
    "gathered": lambda _: Gathered(),
    "turned": turned,
}
NETWORKS = ("chain", "residual", "read")

# How one layer's gates are set: no filter, one, some that depend on the image, all.
MODES = st.sampled_from(["closed", "one", "mixed", "open"])


def biases(mode: str, current: npt.NDArray[np.float32], draw: np.random.Generator) -> npt.NDArray[np.float32]:
    """Biases far above and below what the gates' weights can reach, or about where they are decided by."""
    far = np.float32(1000)
    if mode == "mixed":
        return (current + draw.normal(size=current.shape)).astype(np.float32)
    result = np.full_like(current, far if mode == "open" else -far)
    if mode == "one":
        result[draw.integers(len(result))] = far
    return result


def compare(captured: Any, lowering: Lowering, images: npt.NDArray[np.uint8]) -> None:
    want = {
        name: value.numpy() for name, value in reference(captured.served, images).answer._asdict().items()
    }
    got = captured.opened(lowering).run(images)
    assert got.keys() == want.keys()
    np.testing.assert_array_equal(got["path"], want["path"])
    for name in ("logits", "active_macs", "anomaly_score"):
        largest = np.maximum(1, np.abs(want[name])) if name == "anomaly_score" else 1
        np.testing.assert_array_less(np.abs(got[name] - want[name]) / largest, 1e-4, err_msg=name)
    np.testing.assert_array_equal(got["adversarial"], want["adversarial"])
    for name, value in want.items():
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_a_compiled_network_answers_as_the_masked_one_in_pytorch(
    network: str,
    lowering: str,
    data: st.DataObject,
    seed: int,
    captured: dict[str, Any],
    some_images: Callable[..., npt.NDArray[np.uint8]],
) -> None:
    original = captured[network]
    draw = np.random.default_rng(seed)
    layers = original.served.network.gated_layers
    forced = original.with_gates(
        [biases(data.draw(MODES), layer.gate.expand.bias.detach().numpy(), draw) for layer in layers]
    )
    compare(forced, LOWERINGS[lowering](forced), some_images(3, seed=seed))


@pytest.mark.parametrize("mode", ["closed", "one", "mixed", "open"])
@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_all_layers_may_be_closed_or_open_at_once(
    network: str,
    lowering: str,
    mode: str,
    captured: dict[str, Any],
    some_images: Callable[..., npt.NDArray[np.uint8]],
) -> None:
    draw = np.random.default_rng(0)
    layers = captured[network].served.network.gated_layers
    forced = captured[network].with_gates(
        [biases(mode, layer.gate.expand.bias.detach().numpy(), draw) for layer in layers]
    )
    compare(forced, LOWERINGS[lowering](forced), some_images(5))


def test_the_tiny_networks_really_take_different_paths(
    captured: dict[str, Any], some_images: Callable[..., npt.NDArray[np.uint8]]
) -> None:
    for each in captured.values():
        paths = reference(each.served, some_images(50)).answer.path
        assert len({tuple(path) for path in paths.tolist()}) > 10
        assert 0.2 < paths.float().mean() < 0.8


@pytest.mark.parametrize("network", NETWORKS)
def test_masked_answers_a_batch_as_it_answers_one_by_one(
    network: str, captured: dict[str, Any], some_images: Callable[..., npt.NDArray[np.uint8]]
) -> None:
    graph = captured[network].opened(Masked())
    images = some_images(16)
    together, alone = graph.run(images, batch=16), graph.run(images, batch=1)
    for name, value in together.items():
        np.testing.assert_allclose(value, alone[name], atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(together["path"], alone["path"])


@pytest.mark.parametrize("network", NETWORKS)
def test_masked_answers_do_not_depend_on_the_order_of_a_batch(
    network: str, captured: dict[str, Any], some_images: Callable[..., npt.NDArray[np.uint8]]
) -> None:
    graph, images = captured[network].opened(Masked()), some_images(12)
    together = graph.run(images)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(images))
        again = graph.run(images[order])
        for name in ("logits", "path", "active_macs", "adversarial"):
            np.testing.assert_array_equal(again[name], together[name][order], err_msg=name)
        # The detector's sums over many bits are added in an order that depends on the place in the batch.
        np.testing.assert_allclose(
            again["anomaly_score"], together["anomaly_score"][order], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_compiled_network_is_a_plain_and_old_enough_onnx_file(
    network: str, lowering: str, captured: dict[str, Any], to_bytes: Callable[[ir.Model], bytes]
) -> None:
    model = onnx.load_model_from_string(
        to_bytes(captured[network].lowered(LOWERINGS[lowering](captured[network])))
    )
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used


@pytest.mark.parametrize("network", NETWORKS)
def test_lowering_leaves_the_captured_model_and_the_network_as_they_were(
    network: str,
    captured: dict[str, Any],
    to_bytes: Callable[[ir.Model], bytes],
    some_images: Callable[..., npt.NDArray[np.uint8]],
) -> None:
    each = captured[network]
    before = to_bytes(each.model), reference(each.served, some_images(4)).answer.logits
    for lowering in LOWERINGS.values():
        each.lowered(lowering(each))
    assert to_bytes(each.model) == before[0]
    assert (reference(each.served, some_images(4)).answer.logits == before[1]).all()


@pytest.mark.parametrize("network", ["chain", "residual"])
def test_gathered_runs_convolutions_on_gathered_weights_only(network: str, captured: dict[str, Any]) -> None:
    graph = captured[network].lowered(Gathered()).graph
    convolutions = [node for node in graph if node.op_type == "Conv"]
    static = [node for node in convolutions if node.inputs[1] in graph.initializers.values()]
    assert len(static) == 1  # the first, which has no gate
    layers = captured[network].served.network.layout.layers
    assert len(convolutions) == 1 + len(layers)
    # Both sides are gathered where the input is compact: rows of the gate, and columns of the weights.
    columns = [
        node
        for node in graph
        if node.op_type == "Gather"
        and node.attributes.get_int("axis", 0) == 1
        and node.outputs[0].uses()[0].node.op_type == "Conv"
    ]
    assert len(columns) == sum(bool(layer.sources) for layer in layers)


KINDS = {
    "chain": ["Conv", "ConvTranspose", "Conv"],  # the stem has no gate, the last one stride 2
    "residual": ["Conv", "ConvTranspose", "ConvTranspose", "Conv", "ConvTranspose"],
    "read": ["Conv", "ConvTranspose", "ConvTranspose", "Conv", "ConvTranspose"],
}


@pytest.mark.parametrize("network", NETWORKS)
def test_turned_convolutions_pick_channels_in_long_pieces(network: str, captured: dict[str, Any]) -> None:
    graph = captured[network].lowered(turned(captured[network])).graph
    convolutions = [node for node in graph if node.op_type in ("Conv", "ConvTranspose")]
    assert [node.op_type for node in convolutions] == KINDS[network]
    for node in convolutions:
        if node.op_type == "ConvTranspose":
            axes: list[int] = []
            while (picking := node.inputs[len(axes) == 0].producer()) is not None:
                axes.append(picking.attributes.get_int("axis", 0))
                node = picking
            assert axes in ([1], [0], [1, 0])  # channels are picked before filters


def test_gathered_scatters_a_branch_straight_onto_the_other_summand(captured: dict[str, Any]) -> None:
    graph = captured["residual"].lowered(Gathered()).graph
    scatters = [node for node in graph if node.op_type == "ScatterND"]
    assert [node.attributes["reduction"].as_string() for node in scatters] == ["add", "add"]
