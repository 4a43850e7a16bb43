import io
from pathlib import Path

import numpy as np
import pytest

from penstock.data.decoding import centre_crop, decode, squash

Image = pytest.importorskip("PIL.Image")


def png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def numbered(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_an_image_of_the_size_keeps_every_pixel(tmp_path: Path) -> None:
    pixels = numbered(8, 8)
    (tmp_path / "image.png").write_bytes(png(pixels))
    for source in (png(pixels), tmp_path / "image.png"):
        for fit in (None, squash, centre_crop):
            assert np.array_equal(decode(source, 8, fit), pixels.transpose(2, 0, 1))


def test_a_grey_image_gets_three_equal_channels() -> None:
    pixels = numbered(8, 8)[:, :, 0]
    assert np.array_equal(decode(png(pixels), 8), np.stack([pixels] * 3))


@pytest.mark.parametrize(("height", "width"), [(8, 9), (11, 8), (20, 13)])
def test_a_crop_is_the_middle(height: int, width: int) -> None:
    pixels = numbered(height, width)
    upper, left = (height - 8) // 2, (width - 8) // 2
    middle = pixels[upper : upper + 8, left : left + 8]
    assert np.array_equal(decode(png(pixels), 8, centre_crop), middle.transpose(2, 0, 1))


def test_a_squashed_image_loses_neither_end() -> None:
    pixels = np.zeros((16, 64, 3), np.uint8)
    pixels[:, 32:] = 200
    squashed = decode(png(pixels), 16, squash)
    assert (squashed[:, :, :7] == 0).all()
    assert (squashed[:, :, 9:] == 200).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "cannot be read as an image"),
        (png(numbered(8, 8))[:-40], "cannot be read as an image"),
        (png(np.zeros((8, 8), np.uint16)), "more than 8 bits"),
        (png(numbered(7, 30)), "30x7, smaller than 8x8"),
    ],
    ids=["text", "cut", "deep", "small"],
)
def test_what_cannot_be_decoded_says_why(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(content, 8, centre_crop)
