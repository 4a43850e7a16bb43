import io
import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.data import Splits, load
from penstock.data.cache import cache_folder
from penstock.data.cifar10 import TEST_FILE, TRAIN_FILES, read_images
from penstock.errors import InvalidArgumentError, NotFoundError, UnsupportedError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")

NAMES = ["airplane", "automobile"]


def write_parquet(path: Path, count: int, *, size: int = 32, first: int = 0, **columns: object) -> None:
    """A file of the documented form; image i is all of the grey level i."""
    encoded = []
    for level in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (size, size), (level, level, level)).save(buffer, "WEBP", lossless=True)
        encoded.append(buffer.getvalue())
    table = {
        "image": encoded,
        "label": pa.array([level % 2 for level in range(count)], pa.int8()),
        "index": pa.array(range(first, first + count), pa.int32()),
    }
    schema = {"class_names": json.dumps(NAMES)}
    pq.write_table(pa.table(table | columns).replace_schema_metadata(schema), path)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "penstock"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / TEST_FILE
    write_parquet(path, 20)
    return path


def test_reads_what_was_written(file: Path) -> None:
    images = read_images(file)
    assert images.images.shape == (20, 3, 32, 32)
    assert images.images[:, 2, 31, 0].tolist() == list(range(20))
    assert images.labels.tolist() == [0, 1] * 10
    assert images.class_names == tuple(NAMES)
    assert images.index.tolist() == list(range(20))


def test_second_reading_comes_from_the_cache(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_images(file)
    assert [entry.suffix for entry in cache.iterdir()] == [".npy"]

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("penstock.data.cifar10._decode", refuse)
    assert np.array_equal(read_images(file).images, first.images)


def test_a_changed_file_is_decoded_anew(file: Path) -> None:
    read_images(file)
    write_parquet(file, 7)
    assert len(read_images(file)) == 7


@pytest.mark.parametrize("damage", [b"", b"no array", b"\x93NUMPY"], ids=repr)
def test_a_damaged_cache_is_decoded_over(file: Path, cache: Path, damage: bytes) -> None:
    first = read_images(file)
    (entry,) = cache.iterdir()
    entry.write_bytes(damage)
    assert np.array_equal(read_images(file).images, first.images)
    assert np.load(entry).shape == first.images.shape


def test_no_cache_where_none_can_be_written(
    file: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.INFO):
        assert len(read_images(file)) == 20
    assert "not kept" in caplog.text


def test_cache_folder_without_the_variable_is_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative, which the specification forbids")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/penstock")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    cut, foreign, large, wrong = (
        tmp_path / f"{name}.parquet" for name in ("cut", "foreign", "large", "wrong")
    )
    write_parquet(cut, 20)
    cut.write_bytes(cut.read_bytes()[:-100])
    pq.write_table(pa.table({"label": [0], "index": [0], "image": [b""]}), foreign)  # no class names
    write_parquet(large, 3, size=33)
    write_parquet(wrong, 3, image=[b"no image"] * 3)
    for path in (cut, foreign, large, wrong):
        with pytest.raises(InvalidArgumentError, match=rf"{path.name} is damaged"):
            read_images(path)


def test_missing_folder_or_file_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_DATA", raising=False)
    with pytest.raises(NotFoundError, match=r"set PENSTOCK_DATA.*cifar10_train_a\.parquet"):
        load("cifar10")
    monkeypatch.setenv("PENSTOCK_DATA", str(tmp_path))
    with pytest.raises(NotFoundError, match=r"no cifar10_train_a\.parquet in .*set PENSTOCK_DATA"):
        load("cifar10")


@pytest.mark.parametrize("module", ["pyarrow.parquet", "PIL"])
def test_a_missing_library_names_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedError, match=r"penstock\[train\]"):
        read_images(file)


def test_too_few_training_images_are_refused(tmp_path: Path) -> None:
    for name in (*TRAIN_FILES, TEST_FILE):
        write_parquet(tmp_path / name, 20)
    with pytest.raises(InvalidArgumentError, match=r"cannot draw parts of \(2500,\) from 40"):
        load("cifar10", folder=tmp_path)


@pytest.fixture(scope="module")
def real() -> Splits:
    folder = os.environ.get("PENSTOCK_DATA")
    if not folder:
        pytest.skip("needs CIFAR-10: PENSTOCK_DATA is not set")
    return load("cifar10", folder=Path(folder))


def test_real_splits_are_disjoint_and_complete(real: Splits) -> None:
    assert [len(part) for part in (real.train, real.validation, real.calibration, real.test)] == [
        47423,
        2500,
        1997,
        6985,
    ]
    assert not set(real.train.index.tolist()) & set(real.validation.index.tolist())
    assert set((real.calibration.index % 10).tolist()) == {0, 1}
    assert not set((real.test.index % 10).tolist()) & {0, 1}
    held_out = real.held_out
    assert len(held_out) == 8982
    assert (np.diff(held_out.index) > 0).all()


def test_real_validation_holds_every_class(real: Splits) -> None:
    counts = np.bincount(real.validation.labels, minlength=10)
    assert counts.min() >= 246
    assert counts.max() <= 252


def test_real_images_are_the_known_ones(real: Splits) -> None:
    """The first test image is a cat, and the channel means of the training set are CIFAR-10's."""
    assert real.class_names[int(real.held_out.labels[0])] == "cat"
    mean = real.train.images.mean(axis=(0, 2, 3)) / 255
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
