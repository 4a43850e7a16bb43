"""Small pictures of test images, inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from penstock.report.markup import Html, element
from penstock.report.observation import Observation

LARGEST = 64  # pixels of a side; larger images are made smaller
COARSE = 16  # images of at most so many pixels a side show their pixels instead of a blur


def data_uri(image: npt.NDArray[np.uint8]) -> str:
    """An image ``[C, H, W]`` with one or three channels as a PNG inside a ``data:`` address."""
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)  # [H, W] or [H, W, C]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def thumbnails(seen: Observation, which: Iterable[int]) -> Html:
    """The chosen images in a row; those that the network misreads have a broken frame.

    Args:
        seen: the images, and what they were taken for.
        which: places among them.
    """
    return element("div", *(_thumbnail(seen, int(place)) for place in which), class_="thumbnails")


def _thumbnail(seen: Observation, place: int) -> Html:
    names = seen.images.class_names
    label, predicted = int(seen.images.labels[place]), int(seen.predicted[place])
    image = seen.images.images[place]
    words = f"{names[label]}, image {seen.images.index[place]}"
    kinds = []
    if predicted != label:
        words += f", taken for {names[predicted]}"
        kinds.append("wrong")
    if max(image.shape[1:]) <= COARSE:
        kinds.append("coarse")
    return element("img", src=data_uri(image), alt=words, title=words, class_=" ".join(kinds))
