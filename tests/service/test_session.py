"""One graph in ONNX Runtime: what its runs give, and what memory they leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper

from penstock.bundle import INPUT, OUTPUTS
from penstock.errors import BundleError
from penstock.service.arenas import WINDOW, Shrinking
from penstock.service.devices import CPU, CUDA, Device
from penstock.service.session import Session, run_bound, run_plain
from tests.service.plain import add_model, graph, simple
from tests.service.test_stress import resident_mib

MIB = 2**20


def wide() -> onnx.ModelProto:
    """A graph that takes 256 KiB inside, twice, for every row of 4 KiB."""
    copies = helper.make_tensor("copies", TensorProto.INT64, [2], [1, 64])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Tile", ["x", "copies"], ["wide"]),
        helper.make_node("Exp", ["wide"], ["large"]),
        helper.make_node("ReduceSum", ["large", "axes"], ["y"], keepdims=1),
    ]
    kind = int(TensorProto.FLOAT)
    return graph(nodes, {"x": (kind, ["N", 1024])}, {"y": (kind, ["N", 1])}, [copies, axes])


@pytest.mark.parametrize(("shrink", "least", "most"), [("yes", -64, 32), ("no", 64, 512)])
def test_memory_after_a_large_batch(tmp_path: Path, start: Any, shrink: str, least: int, most: int) -> None:
    """The large one takes 128 MiB."""
    add_model(tmp_path / "models", "wide", wide(), "max_batch_size: 256")
    with start(tmp_path / "models", threads=1, shrink_arenas=shrink) as running:
        with triton.InferenceServerClient(running.url) as client:
            ask(client, rows=1)
            before = resident_mib(running)
            ask(client, rows=256)
            ask(client, rows=1)
        assert least < resident_mib(running) - before < most


def ask(client: Any, rows: int) -> None:
    tensor = triton.InferInput("x", [rows, 1024], "FP32")
    tensor.set_data_from_numpy(np.zeros((rows, 1024), np.float32))
    assert client.infer("wide", [tensor]).as_numpy("y").tolist() == [[64 * 1024]] * rows


def test_memory_is_given_back_after_what_is_unusual() -> None:
    shrinking = Shrinking()
    assert [shrinking.due(size) for size in (1, 8, 1, 8, 4)] == [True, True, False, False, False]
    small = [shrinking.due(2) for _ in range(WINDOW + 8)]
    assert small.index(True) == WINDOW - 1, "as soon as the last run of 8 is that long ago"
    assert sum(small) == 1, "and then there is nothing more to give back"


@pytest.mark.parametrize("model", ["batched", "single"])
def test_bound_runs_give_what_plain_ones_give(
    model: str, repository: Path, images: npt.NDArray[np.float32]
) -> None:
    session = onnxruntime.InferenceSession(
        repository / model / "1" / "model.onnx", providers=Device(CPU).providers
    )
    batch = images[:1] if model == "single" else images[::-1]  # not of one piece in memory
    options = onnxruntime.RunOptions()
    names = OUTPUTS[::-1]
    expected, got = (run(session, {INPUT: batch}, names, options) for run in (run_plain, run_bound))
    for one, other in zip(expected, got, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_bound_runs_take_several_inputs_and_keep_their_answers(tmp_path: Path) -> None:
    onnx.save(simple(), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=Device(CPU).providers)
    options = onnxruntime.RunOptions()
    answers = []
    for number in (1, 2):
        inputs = {name: np.full((3, 16), number, np.int32) for name in ("INPUT0", "INPUT1")}
        answers.append(run_bound(session, inputs, ["OUTPUT1", "OUTPUT0"], options))
    assert [[int(values[0, 0]) for values in answer] for answer in answers] == [[0, 2], [0, 4]]


def test_cuda_takes_no_more_than_it_is_asked_for() -> None:
    assert Device(CPU, memory_mib=7).providers == [(CPU, {})]
    for device, limit in ((Device(CUDA), {}), (Device(CUDA, memory_mib=7), {"gpu_mem_limit": str(7 * MIB)})):
        assert device.providers == [(CUDA, {"arena_extend_strategy": "kSameAsRequested"} | limit), (CPU, {})]


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    content = wide().SerializeToString()
    assert content.count(b"N") > 0
    file = tmp_path / "model.onnx"
    file.write_bytes(content.replace(b"N", b"\xce"))
    with pytest.raises(BundleError, match=r"model\.onnx has names that are no text"):
        Session(file, Device(CPU), 1)
