"""Graphs that ONNX's checker or an engine refuses: which node, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from penstock.bundle import INPUT, OUTPUTS
from penstock.errors import UnsupportedError, VerificationError
from penstock.export.autotune.engines import load
from penstock.export.autotune.stages import MASKED
from penstock.export.autotune.target import Target
from penstock.export.autotune.tune import tune
from penstock.export.compiling import serialize
from penstock.export.engine_errors import check_graph
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.passes.simplify import tidy
from penstock.export.precision.standalone import open_model
from penstock.export.runtime import _openmp_threads, open_graph
from penstock.service.devices import CUDA, find_device

IMAGES = np.zeros((2, 3, 8, 8), np.uint8)
FEED = {INPUT: IMAGES.astype(np.float32)}
# Shapes that the images cannot take, told when a graph is loaded, or first when it runs.
AT_LOADING, AT_RUNNING = [3, 8, 8], [7, -1]


def reshaping(shape: list[int]) -> bytes:
    """A graph whose outputs are its images in another shape, which one node, ``odd``, gives them."""
    nodes = [helper.make_node("Reshape", [INPUT, "shape"], ["same"], name="odd")]
    if shape == AT_LOADING:
        nodes.append(helper.make_node("Gemm", ["same", "same"], ["product"], name="gemm"))
    last = nodes[-1].output[0]
    nodes += [helper.make_node("Identity", [last], [name]) for name in OUTPUTS]
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info(INPUT, kind, [None, 3, 8, 8])],
        [helper.make_tensor_value_info(name, kind, [None, None]) for name in OUTPUTS],
        [numpy_helper.from_array(np.array(shape), "shape")],
    )
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    ).SerializeToString()
    return content


def test_what_the_checker_refuses_is_told_by_node() -> None:
    with pytest.raises(VerificationError, match=r"checker refuses the graph: .*gemm.*another --lowering"):
        check_graph(reshaping(AT_LOADING))
    check_graph(reshaping(AT_RUNNING))


def test_what_onnx_runtime_refuses_is_told_by_node() -> None:
    with pytest.raises(UnsupportedError, match=r"cannot load the graph: .*gemm.*another --lowering"):
        open_graph(reshaping(AT_LOADING), single=False, threads=1)
    with pytest.raises(VerificationError, match=r"cannot run the graph: .*odd.*another --lowering"):
        open_graph(reshaping(AT_RUNNING), single=False, threads=1).run(IMAGES)
    with pytest.raises(UnsupportedError, match=r"cannot load this graph: .*gemm.*another --provider"):
        load(reshaping(AT_LOADING), "cpu", single=False, threads=1)
    graph = load(reshaping(AT_RUNNING), "cpu", single=False, threads=1)
    with pytest.raises(UnsupportedError, match=r"cannot run this graph: .*odd.*another --provider"):
        graph.run_batch(FEED)


def test_openvino_tells_a_broken_file_and_what_to_do() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is an optional extra: penstock[openvino]")
    with pytest.raises(UnsupportedError, match=r"OpenVINO cannot run this graph: .*another --provider"):
        load(b"no graph", "openvino", single=False, threads=1)


def test_cuda_is_refused_where_there_is_none() -> None:
    if find_device().provider == CUDA:
        pytest.skip("there is a GPU, so nothing is refused")
    with pytest.raises(UnsupportedError, match=r"install the GPU build|is there a GPU, with its libraries"):
        load(reshaping(AT_RUNNING), "cuda", single=False, threads=1)


def test_a_part_that_cannot_be_loaded_alone_is_told_by_node() -> None:
    part = onnx.load_model_from_string(reshaping(AT_LOADING))
    with pytest.raises(UnsupportedError, match=r"cannot load odd, a part .*gemm.*--precision fp32"):
        open_model(part)


def test_onnx_runtime_tells_a_broken_file_too() -> None:
    with pytest.raises(UnsupportedError, match="cannot load the graph"):
        open_graph(b"no graph", single=False)


@pytest.mark.parametrize(
    ("shape", "why"), [(AT_LOADING, "cannot load this graph: .*gemm"), (AT_RUNNING, "cannot run .*odd")]
)
def test_auto_goes_on_without_what_an_engine_refuses(
    shape: list[int],
    why: str,
    captured: dict[str, Any],
    some_images: Callable[..., npt.NDArray[np.uint8]],
) -> None:
    network = captured["chain"]
    dense = serialize(network.lowered(Masked()))

    def finish(model: ir.Model, lowering: Lowering) -> bytes:
        return serialize(tidy(model)) if lowering.name == MASKED else reshaping(shape)

    lowering, tuning = tune(network.model, some_images(4), Target(), finish, dense, single=False)
    assert lowering.name == MASKED
    assert tuning.tried_ms.keys() == {MASKED}
    assert re.search(f"gathered: .*{why}", tuning.declined[0])


def test_a_fault_of_our_own_is_not_taken_for_something_an_engine_cannot_do(
    captured: dict[str, Any], some_images: Callable[..., npt.NDArray[np.uint8]]
) -> None:
    def broken(model: ir.Model, lowering: Lowering) -> bytes:
        raise IndexError("a pass of ours")

    with pytest.raises(IndexError, match="a pass of ours"):
        tune(captured["chain"].model, some_images(4), Target(), broken, b"", single=False)


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("2,1", 2), ("", 0), ("many", 0)])
def test_threads_are_those_that_openmp_is_told(
    said: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert _openmp_threads() == threads
