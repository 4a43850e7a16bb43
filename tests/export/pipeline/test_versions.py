"""Further versions of a model that is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.bundle import read_bundle, versions
from penstock.errors import (
    InvalidArgumentError,
)
from penstock.export.pipeline import ExportOptions, export
from penstock.nn.checkpoint import Checkpoint


def test_what_fits_no_version_there_is_refused_before_it_is_compiled(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="net", lowering="masked")
    export(options)
    said: list[str] = []
    for changes in ({"lowering": "gathered"}, {"lowering": "auto", "max_batch": 7}):
        with pytest.raises(InvalidArgumentError, match="choose another --name than 'net'"):
            export(replace(options, **changes), said.append)
    assert said == []


def test_an_edited_configuration_is_kept_and_said_so(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="net", dense=True)
    config = export(options).folder.parent / "config.pbtxt"
    edited = config.read_text() + "instance_group [{ count: 2 }]\n"
    config.write_text(edited)
    said: list[str] = []
    assert export(options, said.append).folder.name == "2"
    assert f"{config} was edited: it stays as it is, and this version goes by it" in said
    assert config.read_text() == edited
    with pytest.raises(
        InvalidArgumentError, match="was edited and contradicts this export: it has input 'images'"
    ):
        export(replace(options, input_type="uint8"))


def test_versions_count_up_and_another_configuration_is_refused(
    tiny: Checkpoint, tiny_run: Path, tmp_path: Path
) -> None:
    def options(**changes: Any) -> ExportOptions:
        usual: dict[str, Any] = {
            "source": str(tiny_run),
            "repository": tmp_path,
            "name": "net",
            "dense": True,
        }
        return ExportOptions(**usual | changes)

    first, second = export(options()), export(options(dense=False, lowering="masked"))
    assert [first.folder.name, second.folder.name] == ["1", "2"]
    for changes in ({"dense": False, "lowering": "gathered"}, {"max_batch": 7}):
        with pytest.raises(InvalidArgumentError, match="choose another --name than 'net'"):
            export(options(**changes))
    assert versions(tmp_path / "net") == [1, 2]
    assert sorted(entry.name for entry in (tmp_path / "net").iterdir()) == [
        "1",
        "2",
        "config.pbtxt",
        "labels.txt",
    ]
    assert read_bundle(first.folder).manifest == first.manifest
