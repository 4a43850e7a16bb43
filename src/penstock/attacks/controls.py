"""Changes that are no attacks: what a detector of attacks should not take for one, or only for something unknown.

Noise, contrast, pixels and JPEG are made here as CIFAR-10-C makes them (Hendrycks and Dietterich, 2019,
https://arxiv.org/abs/1903.12261), whose images are not needed then; of its other corruptions most are of weather and
cameras, and belong to larger images.
"""

from __future__ import annotations

import io

import numpy as np

from penstock.attacks.classifier import Images
from penstock.data import ImageSet
from penstock.errors import InvalidArgumentError, UnsupportedError


def gaussian_like(images: Images, attacked: Images, seed: int) -> Images:
    """Normal noise that moves each image as far in L2 as the attack moved it, before values are cut to 0..1.

    Args:
        images: ``[N, C, H, W]`` in 0..1.
        attacked: the same images after an attack.
        seed: of the noise.
    """
    noise = np.random.default_rng(seed).standard_normal(images.shape, dtype=np.float32)
    axes = (1, 2, 3)
    wanted = np.sqrt(((attacked - images) ** 2).sum(axis=axes, keepdims=True))
    noise *= wanted / np.sqrt((noise**2).sum(axis=axes, keepdims=True))
    noisy: Images = np.clip(images + noise, 0.0, 1.0)
    return noisy


def random_signs(images: Images, eps: float, seed: int) -> Images:
    """Every value ``eps`` up or down by chance: as far in the maximum norm as an attack, and in no direction."""
    signs = np.random.default_rng(seed).integers(0, 2, images.shape).astype(np.float32) * 2 - 1
    return np.clip(images + np.float32(eps) * signs, 0.0, 1.0)


def jpeg(images: Images, quality: int) -> Images:
    """Images ``[N, 1 or 3, H, W]`` as JPEG of this quality, 1 to 95, leaves them.

    Raises:
        UnsupportedError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError('JPEG needs Pillow: pip install "penstock[train]"') from error
    result = np.empty_like(images)
    for place, image in enumerate(np.rint(images * 255).astype(np.uint8)):
        buffer = io.BytesIO()
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        read = np.asarray(Image.open(buffer), dtype=np.float32) / np.float32(255)
        result[place] = read[None] if read.ndim == 2 else read.transpose(2, 0, 1)
    return result


def blur(images: Images, rounds: int = 1) -> Images:
    """Means over 3 x 3 pixels with weights 1, 2, 1, so many times."""
    for _ in range(rounds):
        for axis in (2, 3):
            padding = [(0, 0)] * 4
            padding[axis] = (1, 1)
            padded = np.pad(images, padding, mode="edge")
            size = images.shape[axis]
            before, here, after = (
                np.take(padded, range(start, start + size), axis=axis) for start in range(3)
            )
            images = ((before + 2 * here + after) / 4).astype(np.float32)
    return images


def gaussian(images: Images, deviation: float, seed: int) -> Images:
    """Normal noise of this deviation on every value, as dim light leaves it."""
    noise = np.random.default_rng(seed).standard_normal(images.shape, dtype=np.float32)
    return np.clip(images + np.float32(deviation) * noise, 0.0, 1.0)


def contrast(images: Images, factor: float) -> Images:
    """Images whose values are nearer to the mean of their channel by this factor, as in fog."""
    means = images.mean(axis=(2, 3), keepdims=True)
    faded: Images = np.clip(means + np.float32(factor) * (images - means), 0.0, 1.0)
    return faded


def pixelate(images: Images, share: float) -> Images:
    """Images made smaller to this share of their sides, and as large as they were again, by means over boxes."""
    height, width = images.shape[2:]
    small = resized(images, (max(1, round(height * share)), max(1, round(width * share))), "BOX")
    return resized(small, (height, width), "BOX")


def resized(images: Images, size: tuple[int, int], filter_: str) -> Images:
    """Images ``[N, C, H, W]`` in 0..1 of another height and width, by one of Pillow's filters.

    Raises:
        UnsupportedError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError('other sizes need Pillow: pip install "penstock[train]"') from error
    method, (height, width) = Image.Resampling[filter_], size
    changed = [
        [np.asarray(Image.fromarray(channel).resize((width, height), method)) for channel in image]
        for image in images
    ]
    return np.clip(np.asarray(changed, dtype=np.float32), 0.0, 1.0)


def foreign(other: ImageSet, shape: tuple[int, int, int], count: int) -> Images:
    """``count`` images of another data set in the shape ``(C, H, W)`` that a network takes.

    Grey becomes three equal channels, and the size is changed by Pillow's box filter or, upwards, bilinearly.

    Raises:
        InvalidArgumentError: colour for a network that takes grey.
    """
    channels, height, width = shape
    images = other.images[np.linspace(0, len(other) - 1, min(count, len(other))).astype(np.intp)]
    if images.shape[1] not in (1, channels):
        raise InvalidArgumentError(f"images have {images.shape[1]} channels; the network takes {channels}")
    smaller = images.shape[2] > height
    values = resized((images / 255).astype(np.float32), (height, width), "BOX" if smaller else "BILINEAR")
    return np.repeat(values, channels // values.shape[1], axis=1) if values.shape[1] == 1 else values
