import gzip
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from penstock.data import Splits, load
from penstock.data.mnist import FILES, read_idx
from penstock.errors import InvalidArgumentError, NotFoundError


def idx(array: npt.NDArray[np.uint8], kind: int = 8) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, kind, array.ndim)) + sizes + array.tobytes()


def test_idx_comes_back_as_it_was(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "array.gz").write_bytes(gzip.compress(idx(array)))
    assert np.array_equal(read_idx(tmp_path / "array.gz", 3), array)


GOOD = idx(np.zeros((2, 3, 4), np.uint8))


@pytest.mark.parametrize(
    "content",
    [
        b"not compressed",
        gzip.compress(GOOD)[:-9],
        gzip.compress(GOOD)[:10] + b"\xff" * 20,
        gzip.compress(GOOD[:-1]),
        gzip.compress(b""),
        gzip.compress(GOOD[:9]),
        gzip.compress(idx(np.zeros(5, np.uint8))),
        gzip.compress(idx(np.zeros((2, 3, 4), np.uint8), kind=9)),
    ],
    ids=["text", "cut", "garbled", "short", "empty", "header", "dimensions", "type"],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "array.gz").write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=r"array\.gz is damaged or no IDX file of 3 dimensions"):
        read_idx(tmp_path / "array.gz", 3)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no mnist/t10k-images.* in .*set PENSTOCK_DATA"):
        load("mnist", folder=tmp_path)


@pytest.fixture(scope="module")
def folder() -> Path:
    folder = Path(os.environ.get("PENSTOCK_DATA", ""))
    if not all((folder / file).is_file() for file in FILES):
        pytest.skip("needs MNIST's test files in the folder that PENSTOCK_DATA names")
    return folder


def test_real_parts_are_disjoint_and_hold_all_the_known_digits(folder: Path) -> None:
    splits: Splits = load("mnist", folder=folder)
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    assert [len(part) for part in parts] == [5500, 500, 1999, 2001]
    assert splits.train.images.shape == (5500, 1, 28, 28)
    assert sorted(np.concatenate([part.index for part in parts]).tolist()) == list(range(10_000))
    counts = np.sum([np.bincount(part.labels) for part in parts], axis=0)
    assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_real_parts_follow_the_seed(folder: Path) -> None:
    first, again, other = (load("mnist", folder=folder, seed=seed).test.index.tolist() for seed in (0, 0, 1))
    assert first == again != other
