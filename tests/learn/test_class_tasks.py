import numpy as np
import pytest
import torch
from torch import nn

from penstock.data import ImageSet
from penstock.errors import InvalidArgumentError
from penstock.learn.beta import Candidate, candidate, choose, verdict
from penstock.learn.class_tasks import few_of_each, measure_tasks, task_figures
from penstock.nn.class_masks import attach_class_masks
from penstock.paths import PathLayer, PathLayout, PathSet

LAYOUT = PathLayout(layers=(PathLayer(name="a", filters=4, macs=8),), fixed_macs=2, dense_macs=10)
PATHS = PathSet(LAYOUT, np.array([[1, 1, 1, 1], [1, 0, 0, 0]], dtype=np.uint8))


def test_figures_of_two_tasks() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    under = np.array([[0, 1], [0, 1], [0, 0], [1, 0], [0, 1], [1, 1]])
    figures = task_figures(under, labels, labels, PATHS)
    assert figures.recall == (0.75, 1.0)
    assert figures.precision == (0.75, 0.5)
    assert figures.balanced == pytest.approx(((0.75 + 0.5) / 2, (1.0 + 0.5) / 2))
    assert figures.dense_recall == figures.dense_precision == figures.dense_balanced == (1.0, 1.0)
    assert figures.density == (1.0, 0.25)
    assert figures.mac_share == pytest.approx((1.0, 0.4))
    assert figures.cross == ((0.75, 0.5), (0.5, 1.0))
    assert figures.yes == ((0.75, 0.5), (0.5, 1.0))


def test_a_path_that_always_says_yes_is_worth_nothing() -> None:
    labels = np.array([0, 0, 1, 1])
    under = np.array([[0, 1]] * 4)
    figures = task_figures(under, labels, labels, PATHS)
    assert figures.recall == (1.0, 1.0)
    assert figures.balanced == (0.5, 0.5)
    assert candidate(0.1, figures).kept == 0.0


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="no image of class 1"):
        task_figures(
            np.zeros((3, 2), dtype=np.int64), np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64), PATHS
        )


def test_open_masks_do_every_task_as_the_network_does(chain: nn.Module) -> None:
    draw = np.random.default_rng(0)
    images = ImageSet(
        draw.integers(0, 256, (30, 3, 16, 16)).astype(np.uint8),
        np.arange(30) % 5,
        tuple("abcde"),
        np.arange(30),
    )
    network = attach_class_masks(chain, torch.zeros(1, 3, 16, 16), 5)
    network.scores = torch.ones_like(network.scores)
    figures = measure_tasks(network, images)
    assert figures.images == 30
    assert figures.recall == figures.dense_recall
    assert figures.precision == figures.dense_precision
    assert figures.mac_share == pytest.approx((1.0,) * 5)


def test_few_of_each_takes_the_first_of_every_class() -> None:
    labels = np.array([1, 0, 1, 1, 0, 2])
    images = ImageSet(np.zeros((6, 1, 2, 2), dtype=np.uint8), labels, tuple("abc"), np.arange(6))
    assert few_of_each(images, 2).index.tolist() == [1, 4, 0, 2, 5]


def make(beta: float, kept: float, mac_share: float) -> Candidate:
    return Candidate(
        beta=beta, balanced=0.5 + kept / 2, kept=kept, recall=1.0, density=0.5, mac_share=mac_share
    )


def test_the_cheapest_that_keeps_enough_is_chosen_else_the_best() -> None:
    candidates = [make(0.1, 0.99, 0.9), make(0.2, 0.93, 0.6), make(0.4, 0.91, 0.7), make(0.8, 0.2, 0.1)]
    assert choose(candidates, 0.9).beta == 0.2
    assert choose(candidates, 0.95).beta == 0.1
    assert choose(candidates, 1.0).beta == 0.1
    assert choose(candidates, 0.1).beta == 0.8
    with pytest.raises(InvalidArgumentError, match="no beta to choose from"):
        choose([], 0.9)


def test_a_share_that_no_beta_keeps_is_told_with_what_can_be_done() -> None:
    assert verdict(make(0.1, 0.9, 0.5), 0.9) == "beta 0.1 is taken: it keeps 90.0% of what the network knows"
    assert verdict(make(0.1, 0.819, 0.5), 0.9) == (
        "below keep: 90.0% of what the network knows was to be kept, and beta 0.1, which keeps most, keeps 81.9%; "
        "add smaller values to beta, or ask for less with keep"
    )
