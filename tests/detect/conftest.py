from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from penstock.detect import PathFeatures
from penstock.paths import PathLayer, PathLayout, PathSet

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="session")
def from_logits() -> Callable[..., PathFeatures]:
    """Make features of logits ``[N, P]`` and predicted classes ``[N]``: the path that the gates give."""

    def make(logits: Floats, predicted: npt.NDArray[np.int64]) -> PathFeatures:
        bits = (logits > 0).astype(np.uint8)
        doubts = np.abs(logits[:, 0]).astype(np.float32)  # of whatever it is, it differs from input to input
        return PathFeatures(bits, logits.astype(np.float32), predicted.astype(np.int64), doubts)

    return make


@pytest.fixture(scope="session")
def features(from_logits: Callable[..., PathFeatures]) -> Callable[..., PathFeatures]:
    """Draw features as a network has them: classes differ, and filters move together.

    The seed draws inputs, never classes; another ``spread`` or ``offset`` makes inputs strange.
    """

    def draw(
        count: int,
        *,
        seed: int,
        classes: int = 4,
        filters: int = 24,
        spread: float = 1.0,
        offset: float = 0.0,
    ) -> PathFeatures:
        world, inputs = np.random.default_rng(0), np.random.default_rng(seed)
        means = world.normal(0.5, 1.5, (classes, filters))
        mixing = world.normal(size=(5, filters)) / 2
        predicted = inputs.integers(0, classes, count)
        moves = inputs.normal(size=(count, 5)) @ mixing + 0.2 * inputs.normal(size=(count, filters))
        return from_logits(means[predicted] + offset + spread * moves, predicted)

    return draw


@pytest.fixture(scope="session")
def masks() -> PathSet:
    """Sub-architectures of four classes in two layers of 24 filters together: those that the class mostly opens."""
    layers = tuple(PathLayer(name=name, filters=12, macs=1) for name in "ab")
    usual = np.random.default_rng(0).normal(0.5, 1.5, (4, 24)) > 0
    return PathSet(PathLayout(layers=layers, fixed_macs=0, dense_macs=2), usual.astype(np.uint8))
