import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.data import NAMES, load
from penstock.errors import InvalidArgumentError, UnsupportedError


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(InvalidArgumentError, match=r"'svhn'.*digits, mnist, cifar10, caltech25.*folder:PATH"):
        load("svhn")
    assert NAMES == ("digits", "mnist", "cifar10", "caltech25")


def test_digits_have_the_promised_parts() -> None:
    splits = load("digits")
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    assert [len(part) for part in parts] == [700, 100, 499, 498]
    assert splits.train.images.shape == (700, 1, 8, 8)
    assert splits.class_names == tuple("0123456789")
    indices = np.concatenate([part.index for part in parts])
    assert sorted(indices.tolist()) == list(range(1797))


def test_digits_scale_can_be_inverted() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    test = load("digits").test
    ink = np.rint(test.images[:, 0] * (16 / 255))
    assert np.array_equal(ink, datasets.load_digits().images[test.index])
    assert test.images.max() == 255


def test_digits_split_follows_the_seed() -> None:
    first, again, other = (load("digits", seed=seed).train.index.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UnsupportedError, match=r"penstock\[train\]"):
        load("digits")


def test_calibration_of_the_digits_meets_common_rates_exactly() -> None:
    count = len(load("digits").calibration)
    for rate in (0.01, 0.02, 0.05, 0.1):
        assert (count + 1) * rate == pytest.approx(round((count + 1) * rate))


def test_folder_is_of_no_matter_to_the_digits(tmp_path: Path) -> None:
    assert len(load("digits", folder=tmp_path / "nowhere").train) == 700
