"""Exports that are refused, and leave nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from penstock.bundle import Calibration
from penstock.errors import (
    InvalidArgumentError,
    NotFoundError,
    PenstockError,
    UnsupportedError,
    VerificationError,
)
from penstock.export.calibrate import set_thresholds
from penstock.export.lowerings.executed import Executed
from penstock.export.lowerings.masked import Masked
from penstock.export.nodes.gated_conv import read_gated_conv
from penstock.export.options import LOWERINGS
from penstock.export.passes.reporting import Report
from penstock.export.pipeline import ExportOptions, export
from penstock.nn.checkpoint import Checkpoint


class Deaf(Masked):
    """A wrong lowering: its gates hear only half of what their input says."""

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        for node in model.graph:
            if read_gated_conv(node) is not None:
                weight = node.inputs[-2]
                assert weight is not None
                assert weight.const_value is not None
                # Zero is half of zero, so nothing is wrong with all gates open or closed; only on real images.
                weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(0.5), name=weight.name)
        return super().lower(model, report)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"lowering": "masked"}, VerificationError, "the first layer that breaks is features"),
        ({"lowering": "gathered", "fpr": 0.0001}, InvalidArgumentError, "499 calibration scores are too few"),
        ({"source": "nowhere"}, NotFoundError, "no run folder"),
        ({"source": "zoo:nothing"}, NotFoundError, "no zoo entry 'nothing'"),
    ],
    ids=["verification", "calibration", "source", "zoo"],
)
def test_a_failed_export_leaves_no_files(
    changes: dict[str, Any],
    error: type[PenstockError],
    message: str,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LOWERINGS, "masked", lambda **_: Deaf())
    options: dict[str, Any] = {"source": str(tiny_run), "repository": tmp_path / "models", "name": "net"}
    with pytest.raises(error, match=message):
        export(ExportOptions(**options | changes))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_data_that_was_asked_for_must_be_there(elsewhere: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(elsewhere), repository=tmp_path / "models", name="net", data=tmp_path)
    with pytest.raises(NotFoundError, match=r"no cifar10_train_a\.parquet"):
        export(options)
    assert not (tmp_path / "models").exists()


def test_a_checkpoint_without_detector_needs_no_flags_said(tiny: Checkpoint, tmp_path: Path) -> None:
    replace(tiny, detector={}, calibration=np.zeros(0)).save(tmp_path / "bare.safetensors")
    options = ExportOptions(
        source=str(tmp_path / "bare.safetensors"), repository=tmp_path / "models", name="net"
    )
    with pytest.raises(UnsupportedError, match="holds no detector: export it with --no-flags"):
        export(options)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lowering": "fastest"}, "no lowering 'fastest'; there are auto, masked, gathered"),
        ({"name": "a/b"}, "model name 'a/b'"),
        ({"input_type": "fp16"}, "no input type 'fp16'; there are fp32, uint8"),
        ({"settle": True}, "settle takes gates away that the detector looks at: add --no-flags"),
        ({"fpr": 0.0}, "fpr is 0.0"),
        ({"fpr": 1.0}, "fpr is 1.0"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"threads": 0}, "threads is 0; at least 1"),
    ],
)
def test_options_that_cannot_be_right_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"source": "x", "repository": tmp_path, "name": "net"}
    with pytest.raises(InvalidArgumentError, match=message):
        ExportOptions(**options | changes)


def test_what_breaks_after_the_comparison_with_pytorch_is_seen_in_the_finished_file(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: ir.Model, calibration: Calibration) -> None:
        set_thresholds(model, calibration)
        bias = next(value for name, value in model.graph.initializers.items() if name.endswith("bias"))
        assert bias.const_value is not None
        bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(1), name=bias.name)

    monkeypatch.setattr("penstock.export.compiling.set_thresholds", broken)
    options = ExportOptions(
        source=str(tiny_run), repository=tmp_path / "models", name="net", lowering="masked"
    )
    with pytest.raises(VerificationError, match="of the finished file is not what the graph answered"):
        export(options)
    assert not options.home.exists()
