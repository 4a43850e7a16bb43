"""Keep decoded images in the user's cache folder, so that only the first run pays for decoding.

An entry is named by the hash of the file that it was decoded from and by how its images were made to fit: it can never
be stale, and a copy of the data elsewhere finds it too. The cache is a convenience. Whatever goes wrong with it, the
images are decoded again.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.files import sha256, write_atomic

Pixels = npt.NDArray[np.uint8]

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``penstock`` in the user's cache folder (XDG Base Directory Specification, ``XDG_CACHE_HOME``)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "penstock"


def cached(source: Path, decode: Callable[[], Pixels], shape: tuple[int, ...], recipe: str = "") -> Pixels:
    """What ``decode`` gives, from the cache if it was decoded before.

    Args:
        source: the file that ``decode`` reads.
        decode: gives uint8 of the given shape.
        shape: shape of the array; an entry of another shape is not trusted.
        recipe: name of what ``decode`` does with the images beside decoding; empty for nothing.
    """
    key = "-".join(filter(None, (source.stem, sha256(source)[:16], recipe)))
    entry = cache_folder() / f"{key}.npy"
    found = _read(entry)
    if found is not None and found.shape == shape and found.dtype == np.uint8:
        return found
    pixels = decode()
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    try:
        write_atomic(entry, buffer.getvalue())
    except OSError as error:
        logger.info("decoded images are not kept: %s cannot be written (%s)", entry, error)
    return pixels


def _read(entry: Path) -> Pixels | None:
    try:
        found = np.load(entry, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logger.info("decoding again: %s cannot be read (%s)", entry, error)
        return None
    return found if isinstance(found, np.ndarray) else None
