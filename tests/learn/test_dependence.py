"""Input dependence, on a network whose gates are set by hand: each filter opens above one grey level."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from penstock.data import ImageSet
from penstock.errors import InvalidArgumentError
from penstock.learn.dependence import Dependence, add_noise, dependence, measure_steadiness
from penstock.learn.figures import accuracy_figures
from penstock.nn.inference import answer
from penstock.nn.surgery import GatedNetwork, attach_gates
from penstock.paths import PathLayer, PathLayout, PathSet

Pixels = npt.NDArray[np.uint8]

ALWAYS, NEVER, BRIGHT, RARE, TREMBLING = range(5)
THRESHOLDS = (-10.0, 300.0, 120.0, 249.5, 51.5)  # grey levels above which each filter opens


@pytest.fixture(scope="module")
def network() -> GatedNetwork:
    """One pixel in, five filters that compare it with `THRESHOLDS`."""
    stem, gated = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, len(THRESHOLDS), 1)
    nn.init.ones_(stem.weight)
    model = nn.Sequential(stem, gated, nn.Flatten(), nn.Linear(len(THRESHOLDS), 2)).eval()
    network = attach_gates(model, torch.zeros(1, 1, 1, 1))
    gate = network.gated_layers[0].gate
    with torch.no_grad():
        gate.reduce.weight.fill_(255.0)
        gate.reduce.bias.zero_()
        gate.expand.weight.fill_(1.0)
        gate.expand.bias.copy_(-torch.tensor(THRESHOLDS))
    return network


@pytest.fixture(scope="module")
def images() -> Pixels:
    """100 dark, half of them on either side of 51.5; 100 bright, two of them above 249.5."""
    dark = np.tile([51, 52], 50)
    bright = np.r_[np.full(98, 200), [250, 250]]
    images: Pixels = np.r_[dark, bright].astype(np.uint8).reshape(200, 1, 1, 1)
    return images


LABELS = np.repeat(np.arange(2), 100).astype(np.int64)


def measured(network: GatedNetwork, images: Pixels) -> Dependence:
    paths = PathSet(network.layout, answer(network, images).bits)
    return dependence(paths, LABELS, 2, measure_steadiness(network, images, paths))


def test_only_a_filter_that_varies_and_is_steady_counts(network: GatedNetwork, images: Pixels) -> None:
    found = measured(network, images)
    assert found.opening_rate == pytest.approx([1.0, 0.0, 0.5, 0.01, 0.75])
    assert np.flatnonzero(found.varies).tolist() == [BRIGHT, TREMBLING]
    assert np.flatnonzero(found.input_dependent).tolist() == [BRIGHT]


def test_the_figures_of_a_run_tell_strict_from_naive(network: GatedNetwork, images: Pixels) -> None:
    held_out = ImageSet(images, LABELS, ("dark", "bright"), np.arange(200))
    dense = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
    figures = accuracy_figures(held_out, answer(network, images), network, dense)
    assert (figures["varying"], figures["input_dependent"]) == (2 / 5, 1 / 5)


def test_steadiness_is_the_share_of_unchanged_bits(network: GatedNetwork, images: Pixels) -> None:
    found = measured(network, images).steadiness
    assert found[[ALWAYS, NEVER, BRIGHT]].tolist() == [1.0, 1.0, 1.0]
    # Half a level from the threshold, noise of one level crosses it in a quarter of the cases: 100 of 200 images.
    assert found[TREMBLING] == pytest.approx(1 - 0.25 / 2, abs=4 * math.sqrt(100 * 0.25 * 0.75) / 200)
    assert found[RARE] >= 0.99  # two images


def test_entropies_and_spread_are_those_of_the_counts(network: GatedNetwork, images: Pixels) -> None:
    found = measured(network, images)
    quarter = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert found.entropy[[ALWAYS, NEVER, BRIGHT, TREMBLING]] == pytest.approx([0, 0, math.log(2), quarter])
    assert found.class_entropy[[ALWAYS, NEVER, BRIGHT, TREMBLING]] == pytest.approx(
        [0, 0, 0, math.log(2) / 2]
    )
    assert found.information[BRIGHT] == pytest.approx(math.log(2))
    assert found.information[TREMBLING] == pytest.approx(quarter - math.log(2) / 2)
    assert found.class_spread == pytest.approx([0, 0, 0.5, 0.01, 0.25])


def test_noise_does_not_depend_on_the_batch(network: GatedNetwork, images: Pixels) -> None:
    paths = PathSet(network.layout, answer(network, images).bits)
    whole, pieces = (measure_steadiness(network, images, paths, batch=batch) for batch in (200, 7))
    other = measure_steadiness(network, images, paths, seed=1)
    assert whole.tolist() == pieces.tolist()
    assert whole[TREMBLING] != other[TREMBLING]


def test_noise_is_one_level_at_most_and_stays_among_the_levels() -> None:
    images = np.repeat([0, 100, 255], 1000).astype(np.uint8).reshape(3, 1, 25, 40)
    noisy = add_noise(images, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert noisy.min() == 0.0
    assert noisy.max() == 255.0
    assert np.abs(noisy - images).max() <= 1.0
    assert np.ptp(noisy[1]) > 1.9
    assert (noisy[0] == 0).mean() == pytest.approx(0.5, abs=0.1)


def test_a_class_without_images_changes_nothing() -> None:
    paths = PathSet(layout(2), np.array([[0, 1], [1, 1]], dtype=np.uint8))
    labels = np.array([0, 2])
    with_gap, without = (
        dependence(paths, which, classes, np.ones(2)) for which, classes in ((labels, 3), (labels // 2, 2))
    )
    assert np.isnan(with_gap.class_rates[1]).all()
    for name in ("opening_rate", "entropy", "class_entropy", "information", "class_spread"):
        assert getattr(with_gap, name).tolist() == getattr(without, name).tolist()


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=60))
def test_information_is_that_of_the_joint_distribution(pairs: list[tuple[int, int]]) -> None:
    bits = np.array([[bit] for bit, _ in pairs], dtype=np.uint8)
    labels = np.array([label for _, label in pairs])
    found = dependence(PathSet(layout(1), bits), labels, 3, np.ones(1))
    information = 0.0
    for bit, label in set(pairs):
        joint = pairs.count((bit, label)) / len(pairs)
        information += joint * math.log(joint / ((bits == bit).mean() * (labels == label).mean()))
    assert found.information[0] == pytest.approx(information, abs=1e-9)
    assert found.class_entropy[0] <= found.entropy[0] + 1e-9
    assert found.opening_rate[0] == pytest.approx(bits.mean())


@pytest.mark.parametrize("opened", [5, 95])
def test_the_bounds_themselves_count(opened: int) -> None:
    bits = np.zeros((100, 1), dtype=np.uint8)
    bits[:opened] = 1
    labels = np.arange(100) % 7
    assert dependence(PathSet(layout(1), bits), labels, 7, np.array([0.95])).input_dependent.all()
    assert not dependence(PathSet(layout(1), bits), labels, 7, np.array([0.949])).input_dependent.any()


def test_lengths_that_differ_are_refused(network: GatedNetwork) -> None:
    paths = PathSet(network.layout, np.zeros((3, 5), dtype=np.uint8))
    with pytest.raises(InvalidArgumentError, match=r"3 paths with labels of shape \(2,\)"):
        dependence(paths, np.zeros(2, dtype=np.int64), 2, np.ones(5))
    with pytest.raises(InvalidArgumentError, match=r"steadiness has shape \(4,\).*\[5\]"):
        dependence(paths, np.zeros(3, dtype=np.int64), 2, np.ones(4))
    with pytest.raises(InvalidArgumentError, match="2 images with 3 paths"):
        measure_steadiness(network, np.zeros((2, 1, 1, 1), dtype=np.uint8), paths)
    empty = PathSet(network.layout, np.zeros((0, 5), dtype=np.uint8))
    with pytest.raises(InvalidArgumentError, match="at least one"):
        dependence(empty, np.zeros(0, dtype=np.int64), 2, np.ones(5))


def layout(filters: int) -> PathLayout:
    layers = (PathLayer(name="layer", filters=filters, macs=1),)
    return PathLayout(layers=layers, fixed_macs=0, dense_macs=1)
