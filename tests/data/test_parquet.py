import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from penstock.data.cache import cache_folder
from penstock.data.decoding import centre_crop, squash
from penstock.data.parquet import read_parquet
from penstock.errors import InvalidArgumentError, UnsupportedError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

WriteParquet = Callable[..., None]


@pytest.fixture
def file(tmp_path: Path, write_parquet: WriteParquet) -> Path:
    path = tmp_path / "images.parquet"
    write_parquet(path, 20)
    return path


def test_reads_what_was_written(file: Path) -> None:
    images = read_parquet(file, 32)
    assert images.images.shape == (20, 3, 32, 32)
    assert images.images[:, 2, 31, 0].tolist() == list(range(20))
    assert images.labels.tolist() == [0, 1] * 10
    assert images.class_names == ("airplane", "automobile")
    assert images.index.tolist() == list(range(100, 120))


def test_rows_are_counted_where_there_is_no_index(tmp_path: Path, write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / "plain.parquet", 7, ordered=False)
    assert read_parquet(tmp_path / "plain.parquet", 32).index.tolist() == list(range(7))


def test_grey_and_large_images_are_made_to_fit(tmp_path: Path, write_parquet: WriteParquet) -> None:
    path = tmp_path / "large.parquet"
    write_parquet(path, 5, size=(50, 40), mode="L")
    for fit in (squash, centre_crop):
        images = read_parquet(path, 32, fit).images
        assert images.shape == (5, 3, 32, 32)
        assert np.array_equal(images, np.broadcast_to(np.arange(5)[:, None, None, None], images.shape))


def test_second_reading_comes_from_the_cache(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_parquet(file, 32)
    assert [entry.suffix for entry in cache.iterdir()] == [".npy"]

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("penstock.data.parquet.decode", refuse)
    assert np.array_equal(read_parquet(file, 32).images, first.images)


def test_two_ways_to_fit_do_not_share_an_entry(
    tmp_path: Path, cache: Path, write_parquet: WriteParquet
) -> None:
    path = tmp_path / "large.parquet"
    write_parquet(path, 1, size=(40, 40))
    read_parquet(path, 32, squash)
    read_parquet(path, 32, centre_crop)
    assert sorted(entry.stem.rpartition("-")[2] for entry in cache.iterdir()) == ["centre_crop32", "squash32"]


def test_a_changed_file_is_decoded_anew(file: Path, write_parquet: WriteParquet) -> None:
    read_parquet(file, 32)
    write_parquet(file, 7)
    assert len(read_parquet(file, 32)) == 7


@pytest.mark.parametrize("damage", [b"", b"no array", b"\x93NUMPY"], ids=repr)
def test_a_damaged_cache_is_decoded_over(file: Path, cache: Path, damage: bytes) -> None:
    first = read_parquet(file, 32)
    (entry,) = cache.iterdir()
    entry.write_bytes(damage)
    assert np.array_equal(read_parquet(file, 32).images, first.images)
    assert np.load(entry).shape == first.images.shape


def test_no_cache_where_none_can_be_written(
    file: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.INFO):
        assert len(read_parquet(file, 32)) == 20
    assert "not kept" in caplog.text


def test_cache_folder_without_the_variable_is_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, which the specification forbids")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/penstock")


def test_damaged_files_are_named(file: Path, tmp_path: Path, write_parquet: WriteParquet) -> None:
    cut, foreign, large, wrong = (
        tmp_path / f"{name}.parquet" for name in ("cut", "foreign", "large", "wrong")
    )
    cut.write_bytes(file.read_bytes()[:-100])
    pq.write_table(pa.table({"label": [0], "image": [b""]}), foreign)  # no class names
    write_parquet(large, 3, size=(33, 32))
    write_parquet(wrong, 3, image=[b"no image"] * 3)
    for path in (cut, foreign, large, wrong):
        with pytest.raises(InvalidArgumentError, match=rf"{path.name} is damaged"):
            read_parquet(path, 32)
    with pytest.raises(InvalidArgumentError, match="row 0: it is 33x32 instead of 32x32"):
        read_parquet(large, 32)


@pytest.mark.parametrize("module", ["pyarrow.parquet", "PIL"])
def test_a_missing_library_names_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedError, match=r"penstock\[train\]"):
        read_parquet(file, 32)
