"""Controls are as large as they say, and no larger."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.attacks.classifier import Images
from penstock.attacks.controls import (
    blur,
    contrast,
    foreign,
    gaussian,
    gaussian_like,
    jpeg,
    pixelate,
    random_signs,
)
from penstock.data import ImageSet
from penstock.errors import InvalidArgumentError

DRAW = np.random.default_rng(0)
IMAGES = (0.3 + 0.4 * DRAW.random((4, 3, 16, 16))).astype(np.float32)


def norms(change: Images) -> Images:
    lengths: Images = np.sqrt((change**2).sum(axis=(1, 2, 3)))
    return lengths


def test_noise_is_as_long_as_the_attack() -> None:
    attacked = IMAGES + np.linspace(0.01, 0.04, 4, dtype=np.float32)[:, None, None, None]
    noisy = gaussian_like(IMAGES, attacked, seed=0)
    np.testing.assert_allclose(norms(noisy - IMAGES), norms(attacked - IMAGES), rtol=1e-3)


def test_signs_move_every_value_by_eps() -> None:
    change = random_signs(IMAGES, 0.05, seed=0) - IMAGES
    np.testing.assert_allclose(np.abs(change), 0.05, atol=1e-6)
    assert abs(np.sign(change).mean()) < 0.1


def test_jpeg_changes_more_at_a_lower_quality_and_keeps_grey() -> None:
    rough, fine = (norms(jpeg(IMAGES, quality) - IMAGES).mean() for quality in (10, 95))
    assert 0 < fine < rough
    assert jpeg(IMAGES[:, :1], 90).shape == (4, 1, 16, 16)


def test_blur_keeps_what_is_even_and_spreads_a_point() -> None:
    even = np.full((1, 3, 5, 5), 0.25, dtype=np.float32)
    np.testing.assert_array_equal(blur(even), even)
    point = np.zeros((1, 1, 5, 5), dtype=np.float32)
    point[0, 0, 2, 2] = 1
    np.testing.assert_allclose(blur(point)[0, 0, 2], [0, 0.125, 0.25, 0.125, 0])


def test_noise_has_its_deviation_and_contrast_its_factor() -> None:
    assert np.std(gaussian(IMAGES, 0.02, seed=0) - IMAGES) == pytest.approx(0.02, rel=0.05)
    faded = contrast(IMAGES, 0.4)
    np.testing.assert_allclose(faded.std(axis=(2, 3)), 0.4 * IMAGES.std(axis=(2, 3)), rtol=1e-4)
    np.testing.assert_allclose(faded.mean(axis=(2, 3)), IMAGES.mean(axis=(2, 3)), rtol=1e-4)


def test_pixels_are_means_over_boxes() -> None:
    rough = pixelate(IMAGES, 0.5)
    boxes = IMAGES.reshape(4, 3, 8, 2, 8, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(rough, boxes.repeat(2, axis=2).repeat(2, axis=3), rtol=1e-5)
    assert norms(pixelate(IMAGES, 0.85) - IMAGES).mean() < norms(rough - IMAGES).mean()


def test_other_data_fit_the_network() -> None:
    grey = ImageSet(
        DRAW.integers(0, 256, (5, 1, 28, 28), dtype=np.uint8), np.zeros(5, np.int64), ("0",), np.arange(5)
    )
    shown = foreign(grey, (3, 32, 32), 4)
    assert shown.shape == (4, 3, 32, 32)
    assert shown.max() <= 1
    np.testing.assert_array_equal(shown[:, 0], shown[:, 2])
    colour = ImageSet(np.repeat(grey.images, 3, axis=1), grey.labels, ("0",), grey.index)
    with pytest.raises(InvalidArgumentError, match="3 channels"):
        foreign(colour, (1, 28, 28), 2)
