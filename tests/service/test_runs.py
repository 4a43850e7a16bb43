"""Runs that requests share: what they answer, and whose failure is whose."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import helper
from tritonclient.utils import InferenceServerException

from penstock.errors import OperationError
from penstock.service.devices import CPU, Device
from penstock.service.runs import Piece, Run, Runner
from penstock.service.session import Session
from tests.service.plain import FLOAT, SIMPLE_CONFIG, add_model, graph, simple_string

WAITS = "dynamic_batching { max_queue_delay_microseconds: 500000 }"


def positions() -> onnx.ModelProto:
    """Where a matrix is not zero: rows in, and any number of pairs out."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
    ]
    outputs: dict[str, tuple[int, list[int | str]]] = {
        "y": (onnx.TensorProto.INT64, ["found", 2]),
        "z": (FLOAT, ["N", 2]),
    }
    return graph(nodes, {"x": (FLOAT, ["N", 2])}, outputs)


def runner_of(folder: Path, model: onnx.ModelProto, *, batched: bool = True) -> Runner:
    file = add_model(folder, "run", model) / "1" / "model.onnx"
    return Runner(Session(file, Device(CPU), threads=1), batched=batched)


def matrix(*rows: tuple[float, float], outputs: tuple[str, ...] = ("y",)) -> Piece:
    return Piece({"x": np.array(rows, dtype=np.float32)}, len(rows), outputs)


def texts(text: str) -> Piece:
    return Piece({f"INPUT{n}": np.full((1, 16), text, dtype=np.object_) for n in (0, 1)}, 1, ("OUTPUT0",))


def test_each_piece_has_its_rows_and_the_first_stands_for_the_run(tmp_path: Path) -> None:
    run = runner_of(tmp_path, positions())
    outcomes = run([matrix((1, 2), (3, 4), outputs=("z",)), matrix((5, 6), outputs=("z",))])
    runs = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    assert [each.outputs["z"].tolist() for each in runs] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert [(each.rows, each.first) for each in runs] == [(3, True), (3, False)]


def test_piece_that_fails_fails_alone(tmp_path: Path) -> None:
    run = runner_of(tmp_path, simple_string())
    good, bad, other = run([texts("1"), texts("abc"), texts("2")])
    assert isinstance(bad, Exception)
    for outcome, expected in ((good, "2"), (other, "4")):
        assert isinstance(outcome, Run)
        assert outcome.outputs["OUTPUT0"].tolist() == [[expected] * 16]
        assert (outcome.rows, outcome.first) == (1, True)


def test_output_without_the_batch_is_refused_rather_than_cut_up(tmp_path: Path) -> None:
    run = runner_of(tmp_path, positions())
    for pieces in ([matrix((1, 0)), matrix((1, 1))], [matrix((1, 0)), matrix((0, 0))]):
        whole, wrong = run(pieces)
        assert isinstance(whole, Run)
        assert whole.outputs["y"].tolist() == [[0, 0]]
        assert isinstance(wrong, OperationError)
        assert "output 'y' has shape" in str(wrong)
        assert "max_batch_size: 0" in str(wrong)


def test_graph_without_a_batch_answers_as_it_likes(tmp_path: Path) -> None:
    run = runner_of(tmp_path, positions(), batched=False)
    (outcome,) = run([matrix((1, 1), (0, 1))])
    assert isinstance(outcome, Run)
    assert outcome.outputs["y"].tolist() == [[0, 0], [0, 1], [1, 1]]


def test_requests_that_share_a_run_share_no_failure(tmp_path: Path, start: Any) -> None:
    config = SIMPLE_CONFIG % {"type": "TYPE_STRING"} + WAITS
    add_model(tmp_path / "models", "numbers", simple_string(), config)
    add_model(tmp_path / "models", "positions", positions())
    add_model(tmp_path / "models", "misdescribed", positions(), "max_batch_size: 4")

    def tensors(inputs: dict[str, Any], datatype: str) -> list[Any]:
        made = [triton.InferInput(name, list(values.shape), datatype) for name, values in inputs.items()]
        for tensor in made:
            tensor.set_data_from_numpy(inputs[tensor.name()])
        return made

    with start(tmp_path / "models") as running, triton.InferenceServerClient(running.url) as client:
        answers: Queue[tuple[Any, Any]] = Queue()
        for text in ("1", "abc"):
            given = tensors(texts(text).inputs, "BYTES")
            client.async_infer("numbers", given, lambda result, error: answers.put((result, error)))
        (failed, error), (result, nothing) = sorted((answers.get(timeout=30) for _ in range(2)), key=_whole)
        assert (failed, nothing) == (None, None)
        assert "internal error" in str(error)
        assert result.as_numpy("OUTPUT0").tolist() == [[b"2"] * 16]
        assert "a run that 2 requests shared failed" in running.log.read_text()
        (figures,) = client.get_inference_statistics("numbers").model_stats
        assert (figures.execution_count, figures.inference_stats.success.count) == (1, 1)
        ones = tensors({"x": np.ones((1, 2), dtype=np.float32)}, "FP32")
        assert client.infer("positions", ones).as_numpy("y").tolist() == [[0, 0], [0, 1]]
        with pytest.raises(InferenceServerException, match="so that its first dimension is not the batch"):
            client.infer("misdescribed", ones)


def _whole(answer: tuple[Any, Any]) -> bool:
    return answer[0] is not None
