"""Images without labels: whatever image files a folder holds, as a network takes them.

Enough to set a threshold on, which asks what a network takes images for and not what they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.data.decoding import decode, squash
from penstock.data.folders import SUFFIXES
from penstock.errors import InvalidArgumentError, UnsupportedError


def image_files(folder: Path) -> list[Path]:
    """All image files in a folder and the folders in it, sorted; what begins with a dot is passed over."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def read_unlabelled(files: list[Path], shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Image files as a network takes them, squashed to its size, in grey where it knows no colours.

    Args:
        files: see `image_files`.
        shape: ``(channels, height, width)``.

    Returns:
        ``[N, C, H, W]`` uint8.

    Raises:
        UnsupportedError: the network takes images that are not square, or neither grey nor in three colours.
        InvalidArgumentError: a file cannot be read as an image.
    """
    channels, height, width = shape
    if channels not in (1, 3) or height != width:
        raise UnsupportedError(f"image files become squares of 1 or 3 channels; the model takes {shape}")
    images = np.empty((len(files), *shape), np.uint8)
    for row, file in enumerate(files):
        try:
            images[row] = decode(file, height, squash, grey=channels == 1)
        except ValueError as error:
            raise InvalidArgumentError(f"{file}: {error}") from error
    return images
