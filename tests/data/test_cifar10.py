import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from penstock.data import Splits, load
from penstock.data.cifar10 import TEST_FILE, TRAIN_FILES
from penstock.errors import InvalidArgumentError, NotFoundError

WriteParquet = Callable[..., None]


def test_missing_folder_or_file_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_DATA", raising=False)
    with pytest.raises(NotFoundError, match=r"set PENSTOCK_DATA.*cifar10_train_a\.parquet"):
        load("cifar10")
    monkeypatch.setenv("PENSTOCK_DATA", str(tmp_path))
    with pytest.raises(NotFoundError, match=r"no cifar10_train_a\.parquet in .*set PENSTOCK_DATA"):
        load("cifar10")


def test_too_few_training_images_are_refused(tmp_path: Path, write_parquet: WriteParquet) -> None:
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
