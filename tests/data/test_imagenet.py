import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from penstock.data import ImageSet, imagenet_sample
from penstock.data.imagenet import FILE
from penstock.errors import NotFoundError

WriteParquet = Callable[..., None]


def test_reads_the_middle_of_each_image(tmp_path: Path, write_parquet: WriteParquet) -> None:
    write_parquet(tmp_path / FILE, 3, size=(256, 300), ordered=False)
    sample = imagenet_sample(folder=tmp_path)
    assert sample.images.shape == (3, 3, 224, 224)
    assert sample.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_missing_file_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=rf"no {FILE} in .*set PENSTOCK_DATA"):
        imagenet_sample(folder=tmp_path)


@pytest.fixture(scope="module")
def real() -> ImageSet:
    folder = Path(os.environ.get("PENSTOCK_DATA", ""))
    if not (folder / FILE).is_file():
        pytest.skip(f"needs {FILE} in the folder that PENSTOCK_DATA names")
    return imagenet_sample(folder=folder)


def test_the_real_sample_has_one_image_of_each_of_300_classes(real: ImageSet) -> None:
    assert real.images.shape == (300, 3, 224, 224)
    assert len(real.class_names) == 1000
    assert sorted(real.labels.tolist()) == [label for label in range(1000) if label % 10 in (0, 3, 5)]
    assert real.index.tolist() == list(range(300))


def test_the_real_sample_is_as_bright_as_imagenet_is_known_to_be(real: ImageSet) -> None:
    mean, std = (getattr(np, name)(real.images, axis=(0, 2, 3)) / 255 for name in ("mean", "std"))
    assert mean == pytest.approx([0.485, 0.456, 0.406], abs=0.03)
    assert std == pytest.approx([0.27, 0.27, 0.28], abs=0.03)
