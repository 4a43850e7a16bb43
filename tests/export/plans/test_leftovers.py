"""What killed plans leave is swept up, and nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from penstock.export.plans.leftovers import HIDDEN, sweep
from penstock.export.plans.scratch import PREFIX, clear_unclaimed, scratch_folder
from penstock.files import folder_atomic, write_atomic


def test_old_leftovers_are_swept_up_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "net"
    monkeypatch.setattr(os, "rename", killed)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KilledError), folder_atomic(home / "12") as folder:
        (folder / "model.onnx").write_text("half")
    for name in ("config.pbtxt", "labels.txt"):
        with pytest.raises(KilledError):
            write_atomic(home / name, "half")
    monkeypatch.undo()
    left = list(home.iterdir())
    assert len(left) == 3
    assert all(HIDDEN.fullmatch(entry.name) for entry in left)
    for name in ("1", ".hidden", ".1.old", ".notes.txt.abcdefgh"):
        (home / name).mkdir()

    assert sweep([home, tmp_path / "nowhere"]) == []  # somebody may still be at work
    assert sorted(sweep([home], age=-1.0)) == sorted(left)
    assert {entry.name for entry in home.iterdir()} == {"1", ".hidden", ".1.old", ".notes.txt.abcdefgh"}


def test_only_folders_that_nobody_works_in_are_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed_one, foreign = tmp_path / f"{PREFIX}killed", tmp_path / "other"
    for folder in (killed_one, foreign):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "model.onnx").write_text("half")
    (tmp_path / f"{PREFIX}link").symlink_to(foreign)
    with scratch_folder() as mine:
        assert not killed_one.exists()
        (mine / "model.onnx").write_text("at work")
        assert clear_unclaimed() == []
        with scratch_folder() as beside:
            assert beside != mine
        assert (mine / "model.onnx").exists()
    assert sorted(tmp_path.iterdir()) == [foreign, tmp_path / f"{PREFIX}link"]
    assert (foreign / "deep" / "model.onnx").exists()


def test_a_folder_that_was_cleared_away_before_it_was_claimed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make, made = tempfile.mkdtemp, []

    def cleared_at_once(**how: str) -> str:
        made.append(make(**how))
        if len(made) == 1:
            assert clear_unclaimed() == [Path(made[0])]
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", cleared_at_once)
    with scratch_folder() as folder:
        assert [str(folder)] == made[1:]
        assert folder.is_dir()


class KilledError(Exception):
    """Stands for a kill in the middle of a system call."""


def killed(*_: object) -> None:
    raise KilledError
