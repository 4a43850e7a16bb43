"""Each pass on small graphs: what it changes, what it leaves alone and why, and that answers stay as they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from penstock.bundle import Bundle
from penstock.export.building import Builder, constant_array, fix_batch
from penstock.export.lowerings.gathered import Gathered, Picking
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.nodes.compact import NOTHING, Compact, whole
from penstock.export.nodes.gated_conv import read_gated_conv
from penstock.export.nodes.regions import drop_unused
from penstock.export.nodes.routed_conv import WIDTH, read_routed_conv
from penstock.export.passes import align_widths, scatter_at_adds
from penstock.export.passes.align_widths import AlignWidths, Widths
from penstock.export.passes.drop_closed import DropClosedFilters
from penstock.export.passes.keep_compact import KeepCompact
from penstock.export.passes.merge_open import MergeOpenFilters
from penstock.export.passes.readers import Readers
from penstock.export.passes.reporting import Report
from penstock.export.passes.scatter_at_adds import ScatterAtAdds
from penstock.export.passes.tracking import Tracked
from penstock.export.verify.parity import reference, verify
from penstock.nn.inference import answer
from penstock.paths import Bits
from tests.export.small_graphs import graph_of, kinds, run

Images = npt.NDArray[np.uint8]
ORDER = (
    "align widths",
    "keep activations compact",
    "scatter only at adds",
    "lay weights out for long Gathers",
)


def by_layer(captured: Any, bits: Bits) -> dict[str, Bits]:
    layout = captured.served.network.layout
    return dict(zip(layout.names, layout.split(bits), strict=True))


@pytest.mark.parametrize("lowering", [Masked(), Gathered()], ids=["masked", "gathered"])
def test_filters_that_some_images_never_or_always_open_are_settled_for_all(
    lowering: Masked | Gathered, captured: dict[str, Any], some_images: Callable[..., Images]
) -> None:
    each, images = captured["residual"], some_images(40)
    paths = answer(each.served.network, images).bits
    few = paths[:3]
    settled = replace(each, model=each.model.clone())
    never, always = ~few.any(axis=0), few.all(axis=0)
    effects = [
        step(by_layer(each, few))(settled.model.graph) for step in (DropClosedFilters, MergeOpenFilters)
    ]
    assert [len(effect.changed) for effect in effects] == [never.sum(), always.sum()]
    got = settled.opened(lowering).run(images)
    np.testing.assert_array_equal(got["path"][:3], few)
    assert not got["path"][:, never].any()
    assert got["path"][:, always].all()
    assert (paths[:, never | always] != few[0, never | always]).any()  # gates would have moved them
    want = each.opened(lowering).run(images)  # the model that was cloned is as it was
    np.testing.assert_array_equal(want["path"], paths)
    np.testing.assert_allclose(got["logits"][:3], want["logits"][:3], atol=1e-5)


def test_settling_declines_layers_of_which_every_filter_changes(captured: dict[str, Any]) -> None:
    each = captured["chain"]
    bits = np.eye(2, dtype=np.uint8)[:, [0] * each.served.network.layout.bits]
    layers = set(each.served.network.layout.names)
    for step in (DropClosedFilters, MergeOpenFilters):
        graph = each.model.clone().graph
        effect = step(by_layer(each, bits))(graph)
        assert not effect.changed
        assert set(effect.declined) == layers
        assert not any(conv.fixed.any() for conv in map(read_gated_conv, graph) if conv is not None)


def test_widths_are_multiples_or_whole_and_reasons_are_told(routed: Callable[[str], Any]) -> None:
    graph = routed("fire").model.clone().graph
    convs = [conv for conv in map(read_routed_conv, graph) if conv is not None]
    asked = {conv.layer: Widths(align=4) for conv in convs[1:]}
    effect = AlignWidths(asked, 0)(graph)
    told = {}
    for conv in convs:
        width, opened = conv.node.attributes[WIDTH].as_int(), max(1, int(conv.bits[0].sum()))
        told[conv.layer] = effect.declined.get(str(conv.node.name))
        if conv.conv_attributes["group"] > 1:
            assert (width, told[conv.layer]) == (conv.filters, align_widths.GROUPED)
        elif conv is convs[0]:
            assert (width, told[conv.layer]) == (opened, align_widths.UNASKED)
        else:
            assert width >= opened
            assert width in (conv.filters, -(-opened // 4) * 4)
            assert (told[conv.layer] is None) == (width != opened)
    assert {align_widths.GROUPED, align_widths.UNASKED, None} <= set(told.values())
    assert len(effect.changed) == list(told.values()).count(None)


def test_activations_stay_compact_up_to_the_add(captured: dict[str, Any]) -> None:
    each = captured["residual"]
    graph = each.model.clone().graph
    fix_batch(graph)
    effect = KeepCompact({})(graph)
    assert set(each.served.network.layout.names) <= set(effect.changed)
    assert set(effect.declined.values()) == {"Add needs all channels"}
    masked = KeepCompact({}, whole=each.served.network.layout.names)
    graph = each.model.clone().graph
    fix_batch(graph)
    assert set(masked(graph).declined) == set(each.served.network.layout.names)
    assert "NonZero" not in kinds(graph)


def test_scatters_of_the_network_itself_are_left_alone() -> None:
    """They may write to a place twice, which is not the same as adding there twice."""
    draw = np.random.default_rng(0)
    feed: dict[str, npt.NDArray[Any]] = {
        "index": np.array([[1], [1]]),
        "values": draw.standard_normal((2, 4)).astype(np.float32),
        "other": draw.standard_normal((1, 3, 4)).astype(np.float32),
    }

    def build_it(build: Builder, inputs: Sequence[ir.Value]) -> ir.Value:
        index, values, other = inputs
        zeros = build.constant(np.zeros((3, 4), np.float32), "zeros")
        placed = build.op("ScatterND", zeros, index, values)
        return build.op("Add", build.op("Unsqueeze", placed, build.constant(np.array([0]), "first")), other)

    graph = graph_of(build_it, feed)
    before = kinds(graph)
    effect = ScatterAtAdds()(graph)
    assert (effect.changed, effect.declined, kinds(graph)) == ([], {}, before)


@pytest.mark.parametrize("sides", ["scattered first", "scattered second", "broadcast", "static"])
def test_open_channels_are_added_in_their_places(sides: str) -> None:
    draw = np.random.default_rng(0)
    feed: dict[str, npt.NDArray[Any]] = {
        "small": draw.standard_normal((1, 3, 4, 4)).astype(np.float32),
        "index": np.array([1, 4, 5]),
        "other": draw.standard_normal((1, 8, 1 if sides == "broadcast" else 4, 4)).astype(np.float32),
    }

    def build_it(build: Builder, inputs: Sequence[ir.Value]) -> ir.Value:
        small, index, other = inputs
        known = feed["index"] if sides == "static" else index
        placed = whole(build, Compact(small, known), 8, (4, 4), "zeros")
        return build.op("Add", *((placed, other) if sides != "scattered second" else (other, placed)))

    graph = graph_of(build_it, feed)
    want = run(graph, feed)
    effect = ScatterAtAdds()(graph)
    np.testing.assert_allclose(run(graph, feed), want, atol=1e-6)
    if sides.startswith("scattered"):
        assert len(effect.changed) == 1
        assert "Add" not in kinds(graph)
    else:
        assert not effect.changed
        assert list(effect.declined.values()) == [scatter_at_adds.BROADCAST] * (sides == "broadcast")
        assert "Add" in kinds(graph)


@pytest.mark.parametrize("reads_the_sum", [False, True])
def test_a_sum_of_added_channels_is_no_scatter_for_the_next_add(reads_the_sum: bool) -> None:
    draw = np.random.default_rng(0)
    feed: dict[str, npt.NDArray[Any]] = {
        "small": draw.standard_normal((1, 3, 4, 4)).astype(np.float32),
        "index": np.array([1, 4, 5]),
        "first": draw.standard_normal((1, 8, 4, 4)).astype(np.float32),
        "second": draw.standard_normal((1, 8, 4, 4)).astype(np.float32),
    }

    def build_it(build: Builder, inputs: Sequence[ir.Value]) -> ir.Value:
        small, index, first, second = inputs
        total = build.op("Add", whole(build, Compact(small, index), 8, (4, 4), "zeros"), first)
        if reads_the_sum:
            second = build.op("Relu", total)
        second.shape = first.shape
        return build.op("Add", total, second)

    graph = graph_of(build_it, feed)
    feed = {value.name or "": feed[value.name or ""] for value in graph.inputs}
    want = run(graph, feed)
    effect = ScatterAtAdds()(graph)
    np.testing.assert_allclose(run(graph, feed), want, atol=1e-6)
    assert (len(effect.changed), effect.declined, kinds(graph).count("Add")) == (1, {}, 1)


def test_channels_that_fill_up_the_width_are_not_taken_for_the_last_one() -> None:
    """Of two joined parts one is closed whole, and known to be; of the other, gates decide when the graph runs."""
    feed: dict[str, npt.NDArray[Any]] = {
        "closed": np.zeros((1, 1, 2, 2), np.float32),
        "small": np.random.default_rng(0).standard_normal((1, 2, 2, 2)).astype(np.float32),
        "index": np.array([0, 3]),
    }

    def build_it(build: Builder, inputs: Sequence[ir.Value]) -> ir.Value:
        closed, small, index = inputs
        parts = [ir.Value(name=name, shape=ir.Shape([1, 4, 2, 2])) for name in ("known", "dynamic")]
        tracked.compact[parts[0]] = Compact(closed, np.array([NOTHING]))
        tracked.compact[parts[1]] = Compact(small, index)
        joined = build.op("Concat", *parts, axis=1)
        joined.shape = ir.Shape([1, 8, 2, 2])
        return build.op("Softmax", joined, axis=1)

    tracked = Tracked()
    graph = graph_of(build_it, feed)
    readers = Readers(tracked)
    for node in list(graph):
        readers.read(node)
    drop_unused(graph)
    whole_one = np.zeros((1, 8, 2, 2), np.float32)
    whole_one[:, [4, 7]] = feed["small"]
    odds = np.exp(whole_one)
    np.testing.assert_allclose(run(graph, feed), odds / odds.sum(axis=1, keepdims=True), atol=1e-6)
    # Where a place were written twice, any of the two might win.
    arrays = [constant_array(value) for value in graph.initializers.values()]
    assert all((array != NOTHING).all() for array in arrays if array.dtype == np.int64)


def test_channels_stay_compact_up_to_their_mask_behind_what_keeps_no_zeros(
    gated: Callable[[str], Any], some_images: Callable[..., Images]
) -> None:
    each = gated("sigmoids")
    graph = each.lowered(Gathered()).graph
    assert "ScatterND" not in kinds(graph)
    images = some_images(20)
    verify(reference(each.served, images), each.opened(Gathered()).run(images), each.served.network.layout)


def test_at_int8_filters_come_in_fours_and_sixteen_at_least(routed: Callable[[str], Any]) -> None:
    graph = routed("chain").model.clone().graph
    AlignWidths({}, 0, align_widths.compact("int8"))(graph)
    for conv in filter(None, map(read_routed_conv, graph)):
        width, opened = conv.node.attributes[WIDTH].as_int(), int(conv.bits[0].sum())
        assert width == min(conv.filters, max(16, -(-opened // 4) * 4))


def test_lowerings_report_every_pass_in_order(captured: dict[str, Any], routed: Callable[[str], Any]) -> None:
    names = frozenset(captured["residual"].served.network.layout.names)
    cases: list[tuple[Any, Lowering, tuple[int, ...] | None]] = [
        (captured["residual"], Masked(), (0, 0, 0, 0)),
        (captured["residual"], Gathered(Picking(turned=names)), (0, 4, 2, 3)),
        (routed("chain"), Routed(widths={"3": Widths(align=4)}), None),
    ]
    for each, lowering, counts in cases:
        report = Report()
        lowering.lower(each.model.clone(), report)
        records = report.records
        assert tuple(record.name for record in records) == ORDER
        if counts is not None:
            assert tuple(record.changed for record in records) == counts
        assert all(record.changed or record.declined for record in records)
        assert all(str(record).startswith(f"{record.name}: {record.changed} places") for record in records)


def test_a_report_adds_up_graphs_and_a_copy_goes_its_own_way(routed: Callable[[str], Any]) -> None:
    each = routed("chain")
    report = Report()
    for prototype in range(3):
        report.run(AlignWidths({}, prototype), each.model.clone().graph)
    (record,) = report.records
    count = sum(read_routed_conv(node) is not None for node in each.model.graph)
    assert (record.changed, record.declined) == (0, {align_widths.UNASKED: 3 * count})
    other = report.copy()
    other.skip("another", "not here")
    assert [each.name for each in other.records] == [record.name, "another"]
    assert str(other.records[1]) == "another: 0 places; left alone: not here"
    assert report.records == (record,)
    assert str(replace(record, declined={})) == "align widths: nothing there to do"


@pytest.mark.parametrize("kind", ["masked", "gathered"])
def test_the_manifest_says_what_every_pass_did(kind: str, bundles: dict[str, Bundle]) -> None:
    passes = bundles[kind].manifest.passes
    assert tuple(record.name for record in passes) == (
        "fold batch norms",
        "slice parts, not their join",
        "drop filters that no image opens",
        "merge filters that every image opens",
        *ORDER,
        "enter the blocked layout",
    )
    compact = passes[-4]
    assert (compact.changed > 0) == (kind == "gathered")
    assert not any(record.changed for record in passes[2:4])
