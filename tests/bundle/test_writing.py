"""Writing bundles: whole or not at all, each with the next number."""

from __future__ import annotations

import dataclasses
import fcntl
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from penstock import bundle, bundle_writing
from penstock.bundle import Bundle, read_bundle, versions
from penstock.bundle_writing import write_bundle, write_next_version
from penstock.errors import BundleError, InvalidArgumentError
from penstock.files import sha256
from tests.bundle.made import manifest, write_model


def test_a_bundle_is_read_as_it_was_written(written: Bundle, repository: Path, model: Path) -> None:
    assert written.folder == repository / "net" / "1"
    again = read_bundle(written.folder)
    assert again.manifest == manifest(sha256(model))
    assert again.model_file.read_bytes() == model.read_bytes()
    assert (again.folder / "notes.txt").read_text() == "kept"
    assert (repository / "net" / "labels.txt").read_text() == "cat\ndog\n"
    assert sorted(entry.name for entry in (repository / "net").iterdir()) == [
        "1",
        "config.pbtxt",
        "labels.txt",
    ]


def test_versions_count_up_and_ignore_what_is_no_version(written: Bundle, model: Path) -> None:
    home = written.folder.parent
    for name in ("007", ".9.tmp", "old", "7a"):
        (home / name).mkdir()
    (home / "4").write_text("a file, which takes the number all the same")
    assert write_bundle(home.parent, "net", manifest(sha256(model)), model.read_bytes()).folder.name == "5"
    assert versions(home) == [1, 5]
    assert versions(home / "nowhere") == []


@pytest.mark.parametrize("also", [{"notes.txt": 3}, {"nowhere/notes.txt": "text"}], ids=str)
def test_a_failure_on_the_way_leaves_nothing(repository: Path, model: Path, also: dict[str, Any]) -> None:
    with pytest.raises((TypeError, OSError)):
        write_bundle(repository, "net", manifest(sha256(model)), model.read_bytes(), also=also)
    assert list((repository / "net").iterdir()) == []


def test_a_manifest_of_another_model_is_refused(repository: Path, model: Path) -> None:
    with pytest.raises(BundleError, match="sha256"):
        write_bundle(repository, "net", manifest("0" * 64), model.read_bytes())
    assert list((repository / "net").iterdir()) == []


def test_two_exports_at_once_get_two_versions_where_folders_cannot_be_locked(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have chosen number 1 before either is there."""

    def refuse(*_: object) -> None:
        raise OSError("no locks on this file system")

    monkeypatch.setattr(fcntl, "flock", refuse)
    barrier, numbers = Barrier(2, timeout=20), bundle.numbers_taken
    calls: list[list[int]] = []

    def choose_together(home: Path) -> list[int]:
        calls.append(found := numbers(home))
        if len(calls) <= 2:
            barrier.wait()
        return found

    monkeypatch.setattr(bundle_writing, "numbers_taken", choose_together)
    written: list[Bundle] = []

    def export(value: float) -> None:
        source = write_model(tmp_path / f"{value}.onnx", value)
        written.append(write_bundle(repository, "net", manifest(sha256(source)), source.read_bytes()))

    threads = [Thread(target=export, args=(value,)) for value in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.folder.name for one in written) == ["1", "2"]
    assert len({one.manifest.model_sha256 for one in written}) == 2
    assert versions(repository / "net") == [1, 2]


def test_the_next_version_needs_no_other_configuration(written: Bundle) -> None:
    config = written.folder.parent / "config.pbtxt"
    config.write_text(config.read_text() + "# edited\n")
    content = written.model_file.read_bytes()
    new = write_next_version(written, written.manifest, content, {"notes.txt": b"more"})
    assert new.folder == written.folder.parent / "2"
    assert config.read_text().endswith("# edited\n")
    assert (new.folder / "notes.txt").read_text() == "more"
    other = dataclasses.replace(written.manifest, max_batch=9)
    with pytest.raises(InvalidArgumentError, match="the same inputs and outputs"):
        write_next_version(written, other, content, {})
    assert versions(config.parent) == [1, 2]


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "näme", "a\n"])
def test_names_that_cannot_be_folders_are_refused(repository: Path, model: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="model name"):
        write_bundle(repository, name, manifest(sha256(model)), model.read_bytes())
    assert not repository.exists()
