"""The lowering `auto`, which measures and chooses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from penstock.errors import UnsupportedError, VerificationError
from penstock.export.autotune.stages import MASKED, PICKINGS
from penstock.export.building import Builder, dimension, supersede
from penstock.export.choosing import WORTH_IT
from penstock.export.compiling import Compiled
from penstock.export.lowerings.executed import Executed
from penstock.export.lowerings.masked import Masked
from penstock.export.options import LOWERINGS
from penstock.export.passes.reporting import Report
from penstock.export.pipeline import ExportOptions, export
from penstock.manifest import Agreement
from penstock.nn.checkpoint import Checkpoint


def test_auto_takes_what_it_measured_as_fastest(tiny: Checkpoint, tiny_run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="auto")
    manifest = export(options, said.append).manifest
    tuning = manifest.tuning
    assert tuning is not None
    assert (tuning.provider, tuning.batch, tuning.threads) == ("cpu", 1, 1)
    assert {"gathered", MASKED} <= tuning.tried_ms.keys() <= set(PICKINGS)  # no prototypes to route to
    assert list(tuning.layers) == list(tiny.network.layout.names)
    assert manifest.lowering == ("masked" if set(tuning.layers.values()) == {MASKED} else "gathered")
    assert tuning.ratio == tuning.dense_ms / tuning.chosen_ms
    assert [name for stage in tuning.stages for name in stage.layers] == list(tuning.layers)
    for stage in tuning.stages:
        assert stage.tried_ms.keys() == tuning.tried_ms.keys()
        assert {tuning.layers[name] for name in stage.layers} == {stage.chosen}
        assert str(stage) in said
    assert f"taking {manifest.lowering}" in said


def test_auto_without_flags_is_never_slower_than_dense(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="auto", flags=False)
    tuning = (manifest := export(options).manifest).tuning
    assert tuning is not None
    if manifest.lowering == "dense":
        assert (tuning.ratio, tuning.layers) == (1.0, {})
        assert tuning.chosen_ms < WORTH_IT * tuning.tried_ms["tuned"]
    else:
        assert tuning.ratio >= WORTH_IT
        assert "tuned" not in tuning.tried_ms


def test_auto_keeps_to_how_the_versions_there_are_called(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="net", lowering="masked")
    first = export(options)
    said: list[str] = []
    second = export(replace(options, lowering="auto"), said.append)
    assert second.manifest.lowering == "masked"
    assert second.manifest.tuning is not None
    assert second.manifest.tuning.tried_ms.keys() == {MASKED}
    assert "without gathered: the versions of 'net' that are there take batches" in said
    shutil.rmtree(first.folder)
    shutil.rmtree(second.folder)
    single = export(replace(options, lowering="gathered"))
    assert single.folder == first.folder
    third = export(replace(options, lowering="auto", flags=False)).manifest  # and not the dense network
    assert (third.lowering, MASKED in third.tuning.tried_ms if third.tuning else None) == ("gathered", False)


@pytest.mark.parametrize("part", [{"class_name": "cat"}, {"member": "first"}])
@pytest.mark.parametrize("flags", [True, False])
def test_dense_is_no_candidate_where_a_part_of_the_source_was_asked_for(
    part: dict[str, Any], flags: bool
) -> None:
    options = ExportOptions(source="runs/x", repository=Path("models"), name="net", flags=flags)
    assert options.dense_will_do == (not flags)
    assert not replace(options, **part).dense_will_do


class Refusing(Masked):
    """A lowering that cannot do some layer of this network."""

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        raise UnsupportedError("layer odd is not for me: take another lowering")


def test_auto_goes_on_without_a_lowering_that_refuses(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.export.autotune.stages.Gathered", lambda picking: Refusing())
    monkeypatch.setitem(LOWERINGS, "gathered", lambda **_: Refusing())
    said: list[str] = []
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="auto")
    assert export(options, said.append).manifest.lowering == "masked"
    assert "without masked: layer odd is not for me: take another lowering" in said
    with pytest.raises(UnsupportedError, match="layer odd"):
        export(replace(options, lowering="gathered", name="net"))


class Wrong(Masked):
    """A lowering that is fast, and answers nothing but zeros."""

    name = "gathered"

    def lower(self, model: ir.Model, report: Report | None = None) -> Executed:
        executed = super().lower(model, report)
        build = Builder(model.graph, "wrong")
        rows = build.op("Shape", model.graph.inputs[0], start=0, end=1)
        zeros = []
        for old in model.graph.outputs:
            assert old.dtype is not None
            size = build.constant(np.array([dimension(old, 1)]), "size")
            shape = build.op("Concat", rows, size, axis=0)
            zero = ir.tensor(np.zeros(1, old.dtype.numpy()))
            zeros.append((old, build.op("ConstantOfShape", shape, value=zero)))
        model.graph.extend(list(build.tape.nodes))
        for old, new in zeros:
            supersede(old, new)
        return executed


def test_auto_goes_on_where_its_choice_fails_the_checks(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.export.autotune.stages.Gathered", lambda picking: Wrong())
    said: list[str] = []
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="auto")
    manifest = export(options, said.append).manifest
    assert said.index("taking gathered") < said.index("taking masked")
    assert manifest.lowering == "masked"
    assert manifest.tuning is not None
    assert {"gathered", MASKED} <= manifest.tuning.tried_ms.keys() <= set(PICKINGS)
    assert set(manifest.tuning.layers.values()) == {MASKED}
    assert {stage.chosen for stage in manifest.tuning.stages} == {MASKED}
    assert all(stage.tried_ms for stage in manifest.tuning.stages), "what was measured stays told"
    assert [reason.partition(":")[0] for reason in manifest.tuning.declined] == ["gathered"]


def test_without_flags_auto_takes_the_dense_network_where_nothing_else_passes_its_checks(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> Compiled:
        raise VerificationError("it answers something else")

    monkeypatch.setattr("penstock.export.choosing.compile_paths", refused)
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="auto", flags=False)
    manifest = export(options).manifest
    assert (manifest.lowering, manifest.tuning.ratio if manifest.tuning else None) == ("dense", 1.0)
    with pytest.raises(VerificationError, match="something else"):
        export(replace(options, flags=True, name="net"))


def test_a_dense_network_that_a_precision_ruins_is_measured_against_and_not_taken(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruined(found: Agreement, precision: str) -> None:
        raise VerificationError(f"at {precision}, nearly every class is another one")

    monkeypatch.setattr("penstock.export.choosing.verify_agreement", ruined)
    monkeypatch.setattr("penstock.export.compiling.verify_agreement", lambda found, precision: None)
    said: list[str] = []
    options = ExportOptions(
        source=str(tiny_run), repository=tmp_path, name="auto", flags=False, precision="int8"
    )
    manifest = export(options, said.append).manifest
    assert manifest.lowering != "dense"
    assert manifest.tuning is not None
    assert manifest.tuning.dense_ms > 0
    why = "at int8, nearly every class is another one"
    assert f"without the dense network, but measured against it: {why}" in said
