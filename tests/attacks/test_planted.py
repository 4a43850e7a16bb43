"""Every adaptive attack finds evasions that are known to be there, past detectors that do flag."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from penstock.attacks.adaptive import METHODS, Adaptive
from penstock.attacks.classifier import Images
from penstock.attacks.detector_score import DetectorScore
from penstock.attacks.planted import Planted, found, judged, plant
from penstock.data import load
from penstock.detect import conformal_threshold
from penstock.errors import NotFoundError
from penstock.nn.checkpoint import load_source
from penstock.nn.detecting import features_of
from penstock.nn.lean import lean
from penstock.nn.path_network import PathNetwork
from tests.attacks.never_flags import NeverFlags

EPS = 8 / 255
NETWORKS = ("resnet20-cifar10", "vgg16-cifar10")  # gates and the default recipe; a cascade and a minimum


@dataclass(frozen=True, eq=False)
class Scene:
    """A network, its detector, and planted evasions."""

    network: PathNetwork
    score: DetectorScore
    threshold: float
    planted: Planted
    guides: Images


@pytest.fixture(scope="module", params=NETWORKS)
def scene(request: pytest.FixtureRequest) -> Scene:
    checkpoint, _ = load_source(f"zoo:{request.param}")
    try:
        splits = load("cifar10")
    except NotFoundError as error:
        pytest.skip(f"{error}")
    honest = checkpoint.score.score(features_of(checkpoint.network, splits.calibration.images[:200]))
    threshold = conformal_threshold(honest, 0.05)
    network = lean(checkpoint.network)
    score = DetectorScore(checkpoint.score, network.layout)
    images = splits.test.take(np.arange(10)).floats()
    planted = plant(network, score, threshold, images, EPS)
    return Scene(network, score, threshold, planted, splits.train.take(np.arange(30)).floats())


def test_what_is_planted_is_an_evasion_and_the_image_beside_it_none(scene: Scene) -> None:
    planted = scene.planted
    assert len(planted.images) >= 6
    assert np.abs(planted.images - planted.evasions).max() <= EPS + 1e-6
    read, unflagged = judged(scene.network, scene.score, scene.threshold, planted.evasions)
    assert ((read != planted.labels) & unflagged).all()
    assert (judged(scene.network, scene.score, scene.threshold, planted.images)[0] == planted.labels).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_adaptive_attack_finds_planted_evasions(scene: Scene, method: str) -> None:
    attack = Adaptive(method=method, eps=EPS, steps=60, restarts=1)
    got = found(attack, scene.planted, scene.network, scene.score, scene.threshold, scene.guides)
    assert got.mean() >= 0.8


def test_an_attack_that_does_not_know_the_detector_is_flagged(scene: Scene) -> None:
    planted = scene.planted
    attacked = Adaptive(method="joint", eps=EPS, steps=60, restarts=1)(
        scene.network, NeverFlags(), 1.0, planted.images, planted.labels
    )
    read, unflagged = judged(scene.network, scene.score, scene.threshold, attacked)
    assert (read != planted.labels).mean() >= 0.8
    assert (~unflagged).any()


def test_where_everything_is_flagged_nothing_can_be_planted(scene: Scene) -> None:
    nothing = plant(scene.network, scene.score, float("-inf"), scene.planted.evasions, EPS)
    assert len(nothing.images) == 0
