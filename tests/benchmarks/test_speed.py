"""The benchmarks of speed in a small form: what they export, measure and write."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import speed
import speed_gpu
from gpu_sessions import is_fixed
from speed_forms import with_batch
from speed_subjects import SUBJECTS, forms, networks
from usage import usage

from penstock import zoo
from penstock.data import load
from penstock.export.autotune import engines
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import open_graph

SUBJECT = """
[[network]]
name = "digits"
size = 8
data = "digits"
paths = "{run}"

[[network.form]]
label = "dense"
export = "{run} --dense"
precisions = ["fp32", "int8"]

[[network.form]]
label = "gathered"
export = "{run} --lowering gathered --no-flags"
precisions = ["fp32"]

[[network.form]]
label = "not asked for"
export = "nowhere"
precisions = ["fp32"]
"""


def test_what_a_command_takes_is_its_own_and_not_that_of_who_asks() -> None:
    ballast = np.ones(400 * 2**17)  # 400 MB here, of which nothing must show in what a small program takes
    took = usage([sys.executable, "-c", "import time; block = b'1' * (60 * 2**20); time.sleep(0.2)"])
    assert 60 < took.peak_mb < 200
    assert 0.2 <= took.seconds < 60
    assert ballast.all()
    with pytest.raises(subprocess.CalledProcessError):
        usage([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_benchmark_measures_every_form_and_keeps_what_it_was_not_asked_for(
    tiny_run: Path, tmp_path: Path
) -> None:
    subjects = tmp_path / "subjects.toml"
    asked, _, _ = SUBJECT.rpartition("[[network.form]]")
    subjects.write_text(asked.format(run=tiny_run))
    other = {"network": "other", "batch": 1, "threads": 1}
    (tmp_path / "speed.json").write_text(json.dumps({"rows": [other]}))
    words = ["--subjects", str(subjects), "--out", str(tmp_path), "--seconds", "0.1"]
    for _ in range(2):  # a setting that is measured anew takes the place of what it was
        assert speed.main([*words, "--batch", "2", "--threads", "1"]) == 0
    kept, *rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert kept == other
    assert [(row["form"], row["precision"], row["batch"], row["threads"]) for row in rows] == [
        ("dense", "fp32", 2, 1),
        ("dense", "int8", 2, 1),
        ("gathered", "fp32", 2, 1),
    ]
    dense, narrow, gathered = rows
    assert dense["speed_up"] == narrow["speed_up"] == dense["efficiency"] == 1.0
    assert gathered["speed_up"] == pytest.approx(dense["ms"] / gathered["ms"])
    assert gathered["efficiency"] == pytest.approx(gathered["speed_up"] * gathered["macs"])
    assert gathered["macs"] < 1
    assert all(row["accuracy"] > 0.8 and row["export_seconds"] > 0 and row["file_mb"] > 0 for row in rows)


def test_the_gpu_benchmark_runs_small_and_without_a_gpu(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subjects = tmp_path / "subjects.toml"
    subjects.write_text(SUBJECT.format(run=tiny_run))
    words = ["--subjects", str(subjects), "--out", str(tmp_path), "--form", "gath*", "--precision", "fp32"]
    assert speed_gpu.main([*words, "--batch", "2", "--seconds", "0.1"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "speed_gpu.json").read_text())["rows"]
    assert [(row["form"], row["precision"], row["batch"]) for row in rows] == [
        ("dense", "fp32", 2),
        ("gathered", "fp32", 2),
    ]
    dense, gathered = rows
    assert dense["speed_up"] == dense["efficiency"] == dense["macs"] == 1.0
    assert gathered["speed_up"] == pytest.approx(dense["ms"] / gathered["ms"])
    assert gathered["efficiency"] == pytest.approx(gathered["speed_up"] * gathered["macs"])
    assert gathered["macs"] < 1
    assert not gathered["cuda_graph"]
    assert all(row["difference"] < 1e-3 and row["export_peak_mb"] > 50 for row in rows)
    assert all({"date", "commit", "cpu", "gpu"} <= row["machine"].keys() for row in rows)
    assert all((row["provider"] == "cpu") == (row["machine"]["gpu"] is None) for row in rows)
    assert printed.count("| digits, 8x8 |") == 2
    assert ("measured without a GPU" in printed) == (dense["provider"] == "cpu")


def test_at_int8_openvino_gives_the_answers_of_onnx_runtime_once_the_batch_is_fixed(
    tiny_run: Path, tmp_path: Path
) -> None:
    options = ExportOptions(
        source=str(tiny_run), repository=tmp_path, name="dense", dense=True, precision="int8"
    )
    content = export(options).model_file.read_bytes()
    images = load("digits").test.images[:64]
    want = open_graph(content, single=False).run(images)["logits"]
    run = engines.load(with_batch(content, 8), "openvino", single=False, threads=1).run
    parts = [run({"images": part.astype(np.float32) / 255}) for part in np.split(images, 8)]
    got = np.concatenate([part["logits"] for part in parts])  # type: ignore[index]
    assert (got.argmax(1) == want.argmax(1)).mean() >= 0.98
    assert np.linalg.norm(got - want) < 0.1 * np.linalg.norm(want)
    assert any(
        form.precision == "int8" and "openvino" in form.engines
        for network in networks(["*"])
        for form in forms(network)
    )


def graph(kind: str, **attributes: Any) -> onnx.ModelProto:
    node = onnx.helper.make_node(kind, ["x"], ["y"], **attributes)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]))


def test_graphs_whose_shapes_or_branches_depend_on_values_are_not_recorded() -> None:
    assert is_fixed(graph("Relu"))
    assert not is_fixed(graph("NonZero"))
    assert not is_fixed(graph("If", then_branch=graph("Relu").graph, else_branch=graph("Neg").graph))


def test_what_is_timed_can_be_made_from_the_repository_alone() -> None:
    known = {entry.name for entry in zoo.entries()}
    for network in networks(["*"]):
        made = list(forms(network))
        assert made[0].label == "dense"
        for form in made:
            kind, _, name = form.command[0].partition(":")
            assert kind in ("zoo", "timing")
            assert kind == "timing" or name in known
            assert any(each.label == "dense" and each.precision == form.precision for each in made)
    names = [each["name"] for each in tomllib.loads(SUBJECTS.read_text())["network"]]
    assert [each["name"] for each in networks(["ResNet-*"])] == [
        name for name in names if name.startswith("ResNet-")
    ]
