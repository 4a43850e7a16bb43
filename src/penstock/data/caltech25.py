"""The 25 largest classes of Caltech-101: natural images of about 300 x 250.

The data set is that of L. Fei-Fei, R. Fergus and P. Perona, "Learning Generative Visual Models from Few Training
Examples", 2004.

The folder holds ``caltech25_train.parquet`` and ``caltech25_test.parquet`` as `penstock.data.parquet` says. Images are
squashed to 224 x 224: the objects fill them, and a crop would cut off the ends of airplanes and ships.
"""

from __future__ import annotations

from pathlib import Path

from penstock.data.decoding import squash
from penstock.data.images import Splits
from penstock.data.location import locate
from penstock.data.parquet import read_parquet
from penstock.data.splitting import hold_out

TRAIN_FILE, TEST_FILE = "caltech25_train.parquet", "caltech25_test.parquet"
SIZE = 224


def load_caltech25(folder: Path | None, seed: int) -> Splits:
    """Caltech-101's 25 classes out of ``folder`` (by default what ``PENSTOCK_DATA`` says).

    Raises:
        NotFoundError: the folder was not named, or it or a file in it is not there.
        InvalidArgumentError: a file is damaged.
        UnsupportedError: pyarrow or Pillow is not installed.
    """
    learning, held_out = (
        read_parquet(file, SIZE, squash) for file in locate("caltech25", (TRAIN_FILE, TEST_FILE), folder)
    )
    return hold_out(learning, held_out, seed)
