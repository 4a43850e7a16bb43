"""What a graph with prototypes really computes, seen by ONNX Runtime's profiler, against what is claimed of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.bundle import PATH
from penstock.export.capture.contract import ServedModel
from penstock.export.capture.exporting import capture
from penstock.export.lowerings.routed import Routed
from penstock.export.passes.align_widths import Widths
from penstock.export.passes.simplify import tidy
from penstock.export.runtime import open_graph
from penstock.export.verify.parity import reference, verify
from penstock.nn.cascade import RAN, confidence
from penstock.paths import PathLayout
from tests.export.conftest import SHAPE, consolidated, half_sure

Images = npt.NDArray[np.uint8]
SomeImages = Callable[..., Images]
Named = Callable[[str], Any]
ToBytes = Callable[[ir.Model], bytes]

WIDTHS = {
    "compact": Widths(),
    "aligned": Widths(align=4),
    "filled": Widths(fill=True),
    "aligned and filled": Widths(align=4, fill=True),
    "wider than any": Widths(align=64),
}
NETWORKS = ("chain", "residual", "fire", "inverted", "odd", "static", "cascade")


@dataclass(frozen=True)
class Convolution:
    """One that ran."""

    name: str
    weight: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def macs(self) -> int:
        """Of all images together."""
        return prod(self.weight) * self.output[0] * prod(self.output[2:])


@pytest.fixture
def run(tmp_path: Path, to_bytes: ToBytes) -> Callable[[ir.Model, Images], list[Convolution]]:
    """Run a graph on a batch as it stands, and tell which convolutions ran, in order."""

    def profiled(model: ir.Model, images: Images) -> list[Convolution]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
        session = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
        session.run(None, {"images": images.astype(np.float32) / 255})
        found = []
        for event in json.loads(Path(session.end_profiling()).read_text()):
            if event.get("args", {}).get("op_name") == "Conv":
                (_, weight, *_), (output,) = (
                    [tuple(shape) for each in event["args"][f"{side}_type_shape"] for shape in each.values()]
                    for side in ("input", "output")
                )
                found.append(Convolution(event["name"].removesuffix("_kernel_time"), weight, output))
        return found

    return profiled


Run = Callable[[ir.Model, Images], list[Convolution]]


def lowering(captured: Any, widths: Widths, *, single: bool = False) -> Routed:
    return Routed(single, dict.fromkeys(captured.served.network.layout.names, widths))


def ruled(ran: list[Convolution], layout: PathLayout) -> list[Convolution]:
    """Those that prototypes rule, and the depthwise ones behind them; without stems and classifiers."""
    own = re.compile(f"({'|'.join(map(re.escape, layout.names))})[.]Conv.*")
    return [each for each in ran if own.fullmatch(each.name) or each.weight[1:] == (1, 3, 3)]


def claimed(layout: PathLayout, share: npt.NDArray[np.float64], path: npt.NDArray[np.uint8]) -> float:
    """MACs of the convolutions of the layout, of all images together, when so much of the network is executed."""
    places = dict(zip(layout.names, layout.slices, strict=True))
    fixed = float(layout.fixed_macs * len(path))
    for layer in layout.layers:
        if layer.name == RAN:
            fixed += layer.macs * int(path[:, places[RAN]].sum())
    return float(share.sum() * layout.dense_macs) - fixed


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("network", NETWORKS)
def test_executed_macs_are_those_of_the_convolutions_that_run(
    network: str, widths: str, routed: Named, some_images: SomeImages, run: Run, to_bytes: ToBytes
) -> None:
    each, images = routed(network), some_images(12)
    bits = [router.prototypes.numpy().copy() for router in each.routers.values()]
    for place, own in enumerate(bits):
        if len(own) > 1:
            own[place % 2] = 1  # leaves nothing out
    each = each.with_prototypes(bits)
    layout = each.served.network.layout
    lowered = lowering(each, WIDTHS[widths])
    model = each.model.clone()
    executed = lowered.lower(model)
    got = open_graph(to_bytes(tidy(model)), single=False, threads=1).run(images)
    verify(reference(each.served, images), got, layout)
    macs = sum(each.macs for each in ruled(run(model, images), layout))
    assert macs == pytest.approx(claimed(layout, executed(layout, got[PATH]), got[PATH]), rel=1e-9)
    nominal = layout.active_macs(got[PATH])
    if (network, widths) == (
        "static",
        "compact",
    ):  # nothing has to be whole for a router or another prototype
        assert executed(layout, got[PATH]) == pytest.approx(nominal)
    assert (executed(layout, got[PATH]) >= nominal - 1e-9).all()


@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=5)
@given(widths=st.sampled_from(list(WIDTHS)), single=st.booleans(), seed=st.integers(0, 2**31))
def test_widths_change_no_answer(
    network: str, widths: str, single: bool, seed: int, routed: Named, some_images: SomeImages
) -> None:
    draw = np.random.default_rng(seed)
    each = routed(network)
    each = each.with_prototypes(
        [draw.integers(0, 2, router.prototypes.shape).astype(np.float32) for router in each.routers.values()]
    )
    images = some_images(4, seed=seed)
    got = each.opened(lowering(each, WIDTHS[widths], single=single)).run(images)
    verify(reference(each.served, images), got, each.served.network.layout)


@pytest.mark.parametrize("single", [False, True])
def test_what_fills_up_a_width_stays_zero_behind_a_sigmoid(
    single: bool, routed: Named, some_images: SomeImages
) -> None:
    each, images = routed("odd"), some_images(4)
    each = each.with_prototypes(
        [np.zeros(router.prototypes.shape, np.float32) for router in each.routers.values()]
    )
    got = each.opened(lowering(each, Widths(align=2), single=single)).run(images)
    verify(reference(each.served, images), got, each.served.network.layout)


@pytest.mark.parametrize("network", ["chain", "residual", "fire"])
def test_aligned_convolutions_have_a_multiple_of_filters_or_all(
    network: str, routed: Named, some_images: SomeImages, run: Run
) -> None:
    each, images = routed(network), some_images(20)
    layout = each.served.network.layout
    dense = {layer.name: layer.filters for layer in layout.layers}
    for convolution in ruled(run(each.lowered(lowering(each, Widths(align=4))), images), layout):
        name = convolution.name.rpartition(".")[0]
        assert convolution.weight[0] % 4 == 0 or convolution.weight[0] == dense[name]


def test_filled_convolutions_before_an_add_have_all_filters(
    routed: Named, some_images: SomeImages, run: Run
) -> None:
    each = routed("residual")
    ran = run(each.lowered(lowering(each, Widths(fill=True))), some_images(20))
    filters = {
        each.name.rpartition(".")[0]: each.weight[0] for each in ran
    }  # of whichever prototype ran last
    assert (filters["3.conv2"], filters["4.conv2"], filters["4.downsample.0"]) == (8, 12, 12)
    assert filters["3.conv1"] < 8


def test_prototypes_run_on_the_images_that_take_them_and_not_at_all_without(
    routed: Named, some_images: SomeImages, run: Run
) -> None:
    each, images = routed("chain"), some_images(30)
    own = [router.expand.bias.detach().numpy() for router in each.routers.values()]
    never = each.with_routers([bias + np.array([0, -1000, 0], np.float32) for bias in own])
    with torch.no_grad():
        logits = never.served.network(torch.from_numpy(images).float() / 255).router_logits
    for layer, chosen in zip(("3", "10"), (own.argmax(1) for own in logits), strict=True):
        wanted = [count for count in torch.bincount(chosen, minlength=3).tolist() if count]
        ran = run(never.lowered(Routed()), images)
        rows = [each.output[0] for each in ran if each.name == f"{layer}.Conv1"]
        assert sorted(rows) == sorted(wanted)
        assert len(wanted) == 2


@pytest.mark.parametrize("unsure", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("network", ["cascade", "backed"])
def test_the_second_member_runs_on_the_images_of_which_the_first_is_not_sure(
    network: str, unsure: float, routed: Named, some_images: SomeImages, run: Run
) -> None:
    each, images = routed(network), some_images(30)
    with torch.no_grad():
        sure = (
            confidence(each.served.network.first(torch.from_numpy(images).float() / 255).logits).sort().values
        )
    between = {0.0: 0.0, 0.5: float(sure[14:16].mean()), 1.0: 2.0}
    each = each.with_threshold(between[unsure])
    expected = reference(each.served, images)
    for single in (False, True):
        verify(expected, each.opened(Routed(single)).run(images), each.served.network.layout)
    ran = run(each.lowered(Routed()), images)
    stems = [convolution.output[0] for convolution in ran if convolution.weight == (8, 3, 3, 3)]
    assert stems == [30, round(30 * unsure)][: 1 + bool(unsure)]
    first, second = (
        [each for each in ran if each.name.startswith(name)] for name in ("first.3.", "second.3.")
    )
    assert sum(each.output[0] for each in first) == 30
    assert sum(each.output[0] for each in second) == round(30 * unsure)


def test_a_cascade_of_static_networks_has_nothing_to_choose_but_the_answer(
    some_images: SomeImages, to_bytes: Callable[[ir.Model], bytes]
) -> None:
    network = half_sure(consolidated("inverted", 1), consolidated("inverted", 1)).eval()
    served = ServedModel(network, None).eval()
    images = some_images(30)
    model = capture(served, SHAPE)
    Routed(single=True).lower(model)
    (choice,) = [node for node in model.graph if node.op_type == "If"]
    (condition,) = choice.inputs
    assert condition is not None
    assert (maker := condition.producer()) is not None
    assert maker.op_type == "Less"
    assert len(choice.outputs) == 1
    assert all(node.op_type != "Where" for node in model.graph)
    got = open_graph(to_bytes(tidy(model)), single=True).run(images)
    assert 0 < (got["active_macs"] == got["active_macs"].min()).mean() < 1
    verify(reference(served, images), got, network.layout)
