import errno
import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest

from penstock.files import folder_atomic, folder_locked, sha256, work_locked, write_atomic


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


@pytest.mark.parametrize("locks", [True, False])
def test_two_do_not_hold_a_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks on this file system")

    if not locks:
        monkeypatch.setattr(fcntl, "flock", refuse)
    second_is_in = Event()

    def enter() -> None:
        with folder_locked(tmp_path):
            second_is_in.set()

    second = Thread(target=enter)
    with folder_locked(tmp_path):
        second.start()
        assert second_is_in.wait(0.2) == (not locks)
    second.join(20)
    assert second_is_in.is_set()


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


def test_work_on_a_file_is_one_process_s_until_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "made"
    script = (
        "import sys, time; from pathlib import Path; from penstock.files import work_locked\n"
        "with work_locked(Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with work_locked(file, wait=False) as mine:
            assert not mine
        other.kill()
        with work_locked(file) as mine:
            assert mine
