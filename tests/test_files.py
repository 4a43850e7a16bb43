import errno
import hashlib
import os
from pathlib import Path
from threading import Barrier, Thread

import pytest

from penstock.files import folder_atomic, sha256, write_atomic


def test_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_atomic(path, "long text")
    write_atomic(path, b"short")
    assert path.read_bytes() == b"short"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("hard_links", [True, False])
def test_without_replacing_the_first_writer_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links on this file system")

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file.txt"
    write_atomic(path, "first", replace=False)
    with pytest.raises(FileExistsError):
        write_atomic(path, "second", replace=False)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "home" / "1"
    with folder_atomic(target) as folder:
        (folder / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    with pytest.raises(TypeError), folder_atomic(tmp_path / "home" / "2") as folder:
        (folder / "file").write_text(3)  # type: ignore[arg-type]
    assert list(target.parent.iterdir()) == [target]


def test_a_finished_folder_is_never_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "1"
    with folder_atomic(target) as folder:
        (folder / "file").write_text("first")
    with pytest.raises(FileExistsError), folder_atomic(target) as folder:
        (folder / "file").write_text("second")
    assert (target / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_of_two_folders_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have looked and found the place free before either renames."""
    barrier, rename = Barrier(2, timeout=20), os.rename
    outcomes: list[str] = []

    def rename_together(source: Path, target: Path) -> None:
        barrier.wait()
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_together)

    def write() -> None:
        try:
            with folder_atomic(tmp_path / "1") as folder:
                (folder / "file").write_text("content")
            outcomes.append("written")
        except FileExistsError:
            outcomes.append("refused")

    threads = [Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "written"]
    assert list(tmp_path.iterdir()) == [tmp_path / "1"]


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"penstock")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"penstock").hexdigest()
