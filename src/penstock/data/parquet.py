"""Labelled images from a Parquet file.

Its columns are ``image`` (an encoded image) and ``label`` (an integer), and where a data set has an order of its own,
``index``; the names of the classes are a JSON list under ``class_names`` in the schema's metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from penstock.data.cache import Pixels, cached
from penstock.data.decoding import Fit, decode
from penstock.data.images import ImageSet
from penstock.errors import InvalidArgumentError, UnsupportedError


def read_parquet(path: Path, size: int, fit: Fit | None = None) -> ImageSet:
    """Read one file; its decoded images are cached, because decoding takes seconds.

    Args:
        path: the file.
        size: both sides of the images in the result.
        fit: how images of other sizes are made to fit; ``None`` refuses them.

    Returns:
        Images ``[N, 3, size, size]``, with the column ``index``, or the row's number where there is none.

    Raises:
        InvalidArgumentError: the file is damaged or has other columns.
        UnsupportedError: pyarrow or Pillow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UnsupportedError(f'reading {path.name} needs pyarrow: pip install "penstock[train]"') from error

    def read_pixels() -> Pixels:
        encoded = parquet.read_table(path, columns=["image"])["image"].to_pylist()
        pixels = np.empty((len(encoded), 3, size, size), np.uint8)
        for row, image in enumerate(encoded):
            try:
                pixels[row] = decode(image, size, fit)
            except ValueError as error:
                raise ValueError(f"image in row {row}: {error}") from error
        return pixels

    try:
        schema = parquet.read_schema(path)
        names = json.loads(schema.metadata[b"class_names"])
        ordered = "index" in schema.names
        rows = parquet.read_table(path, columns=["label", "index"] if ordered else ["label"])
        return ImageSet(
            cached(path, read_pixels, (len(rows), 3, size, size), f"{fit.__name__}{size}" if fit else ""),
            rows["label"].to_numpy().astype(np.int64),
            tuple(names),
            rows["index"].to_numpy().astype(np.int64) if ordered else np.arange(len(rows), dtype=np.int64),
        )
    # pyarrow's and Pillow's errors are ValueError or OSError; a missing column or metadata is the rest.
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise InvalidArgumentError(
            f"{path} is damaged or holds something else ({error}): copy it anew"
        ) from error
