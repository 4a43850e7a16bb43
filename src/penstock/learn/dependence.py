"""Which filters really choose by the input, and how much their choice says about the class.

A filter that opens for some images and not for others need not have looked at what they show: its gate logit may lie
so close to zero that anything tips it. So *input-dependent* is strict here. A filter counts if

- its bit z is 1 on 5 % to 95 % of the images, and
- on at least 95 % of them uniform noise of one grey level, +-1/255, leaves its bit as it was.

The first condition alone is the *naive* share. How a filter's choice goes with the class y is told by

    H(z)   = -sum_z p(z) ln p(z)                    marginal entropy
    H(z|y) = -sum_y p(y) sum_z p(z|y) ln p(z|y)     conditional entropy
    I(z;y) = H(z) - H(z|y)                          mutual information, 0 .. ln 2

all in nats, and by the spread of its opening rate between classes, the standard deviation of p(z=1|y) over y. I(z;y)
is estimated from counts and, for a filter that ignores the class, comes out near (classes - 1) / 2N instead of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.errors import InvalidArgumentError
from penstock.nn.inference import answer
from penstock.nn.path_network import PathNetwork
from penstock.paths import Floats, PathSet

LOW, HIGH = 0.05, 0.95  # opening rates between which a filter varies
STEADY = 0.95  # least share of images on which noise may not change the bit
LEVELS = 1.0  # amplitude of the noise, in grey levels of 255

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dependence:
    """How the bits of one network depend on the input.

    Attributes:
        steadiness: ``[P]`` share of the images on which noise left the filter's bit as it was.
        class_rates: ``[classes, P]`` opening rate among each class's images; NaN for a class without any.
        class_shares: ``[classes]`` share of the images that each class has.
    """

    steadiness: Floats
    class_rates: Floats
    class_shares: Floats

    @property
    def opening_rate(self) -> Floats:
        """``[P]`` share of all images for which each filter is open."""
        rate: Floats = self.class_shares @ np.nan_to_num(self.class_rates)
        return rate

    @property
    def varies(self) -> npt.NDArray[np.bool_]:
        """``[P]`` the naive condition: open on 5 % to 95 % of the images."""
        # A rate put together from the classes' may miss the rate itself by rounding.
        rate = self.opening_rate.round(12)
        return (rate >= LOW) & (rate <= HIGH)

    @property
    def input_dependent(self) -> npt.NDArray[np.bool_]:
        """``[P]`` the strict condition: varies, and noise leaves it alone."""
        return self.varies & (self.steadiness >= STEADY)

    @property
    def entropy(self) -> Floats:
        """``[P]`` H(z) in nats."""
        return _binary_entropy(self.opening_rate)

    @property
    def class_entropy(self) -> Floats:
        """``[P]`` H(z|y) in nats."""
        entropy: Floats = self.class_shares @ _binary_entropy(np.nan_to_num(self.class_rates))
        return entropy

    @property
    def information(self) -> Floats:
        """``[P]`` I(z;y) in nats."""
        return np.maximum(self.entropy - self.class_entropy, 0.0)  # below 0 only by rounding

    @property
    def class_spread(self) -> Floats:
        """``[P]`` standard deviation over the classes of the opening rate, 0 .. 0.5."""
        spread: Floats = np.nanstd(self.class_rates, axis=0)
        return spread


def dependence(paths: PathSet, labels: Labels, classes: int, steadiness: Floats) -> Dependence:
    """Put together what bits, labels and a measured steadiness say.

    Args:
        paths: of ``N`` images.
        labels: ``[N]`` their classes.
        classes: number of classes.
        steadiness: ``[P]``, see `measure_steadiness`.

    Raises:
        InvalidArgumentError: there are no images, or the lengths differ.
    """
    if not len(paths) or labels.shape != (len(paths),):
        raise InvalidArgumentError(
            f"{len(paths)} paths with labels of shape {labels.shape}; one label each, and at least one, is needed"
        )
    if steadiness.shape != (paths.layout.bits,):
        raise InvalidArgumentError(
            f"steadiness has shape {steadiness.shape}; the paths need [{paths.layout.bits}]"
        )
    shares = np.bincount(labels, minlength=classes) / len(labels)
    return Dependence(steadiness, paths.by_class(labels, classes), shares)


def measure_steadiness(
    network: PathNetwork, images: npt.NDArray[np.uint8], paths: PathSet, *, seed: int = 0, batch: int = 250
) -> Floats:
    """On what share of the images each filter's bit withstands noise of one grey level.

    Args:
        network: whose bits these are.
        images: ``[N, C, H, W]`` uint8.
        paths: of the same images, without noise.
        seed: of the noise; one draw per image, the same whatever the batch.
        batch: images per run.

    Returns:
        ``[P]``, 0 .. 1.

    Raises:
        InvalidArgumentError: there are no images, or their number is not that of the paths.
    """
    if not len(images) or len(images) != len(paths):
        raise InvalidArgumentError(
            f"{len(images)} images with {len(paths)} paths; one path each is needed, and at least one image"
        )
    draw = np.random.default_rng(seed)
    unchanged = np.zeros(paths.layout.bits, dtype=np.int64)
    for start in range(0, len(images), batch):
        piece = slice(start, start + batch)
        noisy = answer(network, add_noise(images[piece], draw), batch)
        unchanged += (noisy.bits == paths.bits[piece]).sum(axis=0)
    return unchanged / len(images)


def add_noise(images: npt.NDArray[np.uint8], draw: np.random.Generator) -> npt.NDArray[np.float32]:
    """Images with uniform noise of +-1 grey level, kept within 0 .. 255; float32, not rounded to levels."""
    # Double precision: in single, two numbers share one draw and the noise would depend on the batch's size.
    noise = draw.uniform(-LEVELS, LEVELS, images.shape)
    return np.clip(images + noise, 0.0, 255.0).astype(np.float32)


def _binary_entropy(rate: Floats) -> Floats:
    """``-p ln p - (1-p) ln(1-p)`` with 0 ln 0 = 0."""
    inside = np.clip(rate, 0.0, 1.0)
    total = np.zeros_like(inside)
    for p in (inside, 1.0 - inside):
        total -= p * np.log(p, out=np.zeros_like(p), where=p > 0)
    return total
