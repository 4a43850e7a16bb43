import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from penstock.data import Splits, load
from penstock.data.caltech25 import TEST_FILE, TRAIN_FILE
from penstock.errors import NotFoundError

WriteParquet = Callable[..., None]


def test_any_sizes_become_one_and_are_split(tmp_path: Path, write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / TRAIN_FILE, 30, size=(30, 25), ordered=False)
    write_parquet(tmp_path / TEST_FILE, 11, size=(12, 40), mode="L", ordered=False)
    splits = load("caltech25", folder=tmp_path)
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    assert [len(part) for part in parts] == [27, 3, 5, 6]
    assert all(part.images.shape[1:] == (3, 224, 224) for part in parts)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no caltech25_train\.parquet in .*set PENSTOCK_DATA"):
        load("caltech25", folder=tmp_path)


@pytest.fixture(scope="module")
def folder() -> Path:
    folder = Path(os.environ.get("PENSTOCK_DATA", ""))
    if not (folder / TRAIN_FILE).is_file():
        pytest.skip(f"needs {TRAIN_FILE} and {TEST_FILE} in the folder that PENSTOCK_DATA names")
    return folder


@pytest.fixture(scope="module")
def real(folder: Path) -> Splits:
    return load("caltech25", folder=folder)


@pytest.fixture(scope="module")
def other(folder: Path) -> Splits:
    return load("caltech25", folder=folder, seed=7)


def test_real_parts_have_the_documented_sizes_and_hold_every_class(real: Splits) -> None:
    parts = (real.train, real.validation, real.calibration, real.test)
    assert [len(part) for part in parts] == [1460, 162, 199, 259]
    for part, fewest in zip(parts, (50, 5, 6, 9), strict=True):
        assert part.images.shape[1:] == (3, 224, 224)
        assert np.bincount(part.labels, minlength=25).min() >= fewest


def test_real_parts_are_disjoint(real: Splits) -> None:
    assert sorted([*real.train.index, *real.validation.index]) == list(range(1622))
    assert real.held_out.index.tolist() == list(range(458))


def test_real_calibration_meets_common_rates_exactly_and_ignores_the_seed(
    real: Splits, other: Splits
) -> None:
    assert np.array_equal(other.calibration.index, real.calibration.index)
    assert not np.array_equal(other.validation.index, real.validation.index)
    for rate in (0.01, 0.02, 0.05, 0.1):
        assert (len(real.calibration) + 1) * rate == pytest.approx(round((len(real.calibration) + 1) * rate))


def test_real_images_are_the_known_ones(real: Splits) -> None:
    """Classes come in the order of the file, some images are grey, and photographs are neither black nor white."""
    assert real.class_names[:3] == ("airplanes", "Motorbikes", "Faces_easy")
    grey = (real.train.images == real.train.images[:, :1]).all(axis=(1, 2, 3))
    assert 10 < grey.sum() < len(grey) / 2
    assert real.train.images.mean(axis=(0, 2, 3)) / 255 == pytest.approx([0.53, 0.52, 0.50], abs=0.05)
