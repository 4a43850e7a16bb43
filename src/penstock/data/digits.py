"""Scikit-learn's handwritten digits: real images that need no download.

1,797 grey images of 8 x 8 pixels, a part of UCI's "Optical Recognition of Handwritten Digits" (E. Alpaydin
and C. Kaynak, 1998). A pixel counts the ink in a 4 x 4 block, 0..16; here it becomes ``round(v * 255 / 16)``,
and ``round(u * 16 / 255)`` gives it back exactly.
"""

from __future__ import annotations

import numpy as np

from penstock.data.images import ImageSet, Splits
from penstock.data.splitting import stratified
from penstock.errors import UnsupportedError

TRAIN, VALIDATION, TEST = 700, 100, 498
# One fewer than 500, so that thresholds for 1 %, 2 %, 5 % and 10 % are met exactly: `penstock.data.splitting` says how.
# More training images would make calibration and test too small to tell.
CALIBRATION = 499


def load_digits(seed: int) -> Splits:
    """The digits, split with this seed.

    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_source
    except ImportError as error:
        raise UnsupportedError('digits come with scikit-learn: pip install "penstock[train]"') from error
    source = load_source()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)
    whole = ImageSet(
        images[:, None],
        source.target.astype(np.int64),
        tuple(str(name) for name in source.target_names),
        np.arange(len(images), dtype=np.int64),
    )
    parts = stratified(whole.labels, (TRAIN, VALIDATION, CALIBRATION, TEST), seed)
    return Splits(*(whole.take(part) for part in parts))
