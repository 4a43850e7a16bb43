"""Results say which commit they are of, also where the tree came as an archive."""

from __future__ import annotations

import argparse
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import machine
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_an_archive_knows_its_commit() -> None:
    made = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "HEAD", "benchmarks/COMMIT"], capture_output=True
    )
    if made.returncode:
        pytest.skip("this tree is no clone")
    with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
        content = archive.extractfile("benchmarks/COMMIT")
        assert content is not None
        assert machine.archived(content.read().decode()) == machine.about()["commit"].removesuffix("-dirty")


def test_a_clone_is_no_archive() -> None:
    assert machine.archived("$Format:%h$\n") == ""


def test_a_part_takes_the_place_of_all_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    machine.refuse_partial(parser, None, machine.RESULTS)
    machine.refuse_partial(parser, "--only", tmp_path)
    with pytest.raises(SystemExit):
        machine.refuse_partial(parser, "--only", machine.RESULTS)
    assert "--only leaves some out: name another folder with --out" in capsys.readouterr().err
