"""Image files to arrays of one size, in red, green and blue.

`squash` is how ``penstock infer`` fits images too, so a network meets in service what it learnt from.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from penstock.errors import UnsupportedError

if TYPE_CHECKING:
    from PIL import Image

Fit = Callable[["Image.Image", int], "Image.Image"]


def squash(image: Image.Image, size: int) -> Image.Image:
    """The whole image, its sides stretched or shrunk to ``size``: nothing is lost, shapes are distorted."""
    from PIL import Image

    return image.resize((size, size), Image.Resampling.BILINEAR)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle of an image whose sides are at least ``size``; no pixel is changed."""
    left, upper = (image.width - size) // 2, (image.height - size) // 2
    if min(left, upper) < 0:
        raise ValueError(f"it is {image.width}x{image.height}, smaller than {size}x{size}")
    return image.crop((left, upper, left + size, upper + size))


def decode(
    source: bytes | Path, size: int, fit: Fit | None = None, *, grey: bool = False
) -> npt.NDArray[np.uint8]:
    """One image file as ``[3, size, size]``; grey becomes equal red, green and blue.

    Args:
        source: the file or what is in it.
        size: both sides of the result.
        fit: how an image of another size is made to fit; ``None`` refuses it.
        grey: turn colours to grey instead: ``[1, size, size]``.

    Raises:
        ValueError: it cannot be read as an image, or does not fit.
        UnsupportedError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError('reading images needs Pillow: pip install "penstock[train]"') from error
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.mode.startswith(("I", "F")):  # 16 or 32 bits, which Pillow cuts off rather than scales
                raise ValueError(f"it has more than 8 bits a channel (mode {image.mode}); save it with 8")
            fitted = image.convert("L" if grey else "RGB")
            fitted = fit(fitted, size) if fit else fitted
    # What Pillow raises for a spoilt file depends on the format.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be read as an image: {error}") from error
    if fitted.size != (size, size):
        raise ValueError(f"it is {fitted.width}x{fitted.height} instead of {size}x{size}")
    return np.asarray(fitted)[None] if grey else np.asarray(fitted).transpose(2, 0, 1)  # from [H, W, C]
