"""One piece of an evaluation: make the changed images, let everything judge them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from penstock.attacks.adaptive import METHODS, Adaptive
from penstock.attacks.carlini import CarliniL2
from penstock.attacks.classifier import Images
from penstock.attacks.controls import (
    blur,
    contrast,
    gaussian,
    gaussian_like,
    jpeg,
    pixelate,
    random_signs,
)
from penstock.attacks.detector_score import DetectorScore
from penstock.attacks.evaluation_bench import Bench
from penstock.attacks.evaluation_config import ADAPTIVE, AIMED, ATTACKS, CHANGES, OWN, EvaluationConfig, named
from penstock.attacks.evaluation_figures import Arrays
from penstock.attacks.inflation import Inflation, bound
from penstock.attacks.pgd import PGD
from penstock.attacks.planted import found, plant
from penstock.attacks.square import Square
from penstock.attacks.toolbox import FGSM, Attack, AutoAttack, DeepFool, Transfer
from penstock.data import ImageSet
from penstock.detect import FamilyScore, conformal_threshold
from penstock.errors import InvalidArgumentError
from penstock.nn.checkpoint import Checkpoint, load_source
from penstock.nn.lean import lean
from penstock.nn.path_network import PathNetwork

QUALITY = 75  # of JPEG, Pillow's own choice
PLANTED = 30  # honest images from which evasions are planted


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """What is attacked.

    Attributes:
        checkpoint: the network.
        detector: its score.
        calibration: its scores of honest calibration images.
        victims: test images that the network reads right.
        before: what a `Bench` said of them before they were changed.
        guides: honest training images.
        foreign: images of other data sets in 0..1, by control.
        other: another network, for attacks that are made elsewhere; ``None`` where none is made.
    """

    checkpoint: Checkpoint
    detector: FamilyScore
    calibration: npt.NDArray[np.float64]
    victims: ImageSet
    before: Arrays
    guides: ImageSet
    foreign: Mapping[str, Images] = field(default_factory=dict)
    other: nn.Module | None = None

    @cached_property
    def network(self) -> PathNetwork:
        """What attacks ask: it answers as the checkpoint's network does, by which what they give is judged."""
        return lean(self.checkpoint.network)

    def first(self, count: int) -> Subject:
        """The same with no more than so many victims."""
        before = {name: array[:count] for name, array in self.before.items()}
        return replace(
            self, victims=self.victims.take(np.arange(min(count, len(self.victims)))), before=before
        )


def other_network(source: str, attacked: Checkpoint) -> tuple[nn.Module, dict[str, str]]:
    """A network whose adversarial images can be shown to the one that is attacked, and what it is.

    Raises:
        InvalidArgumentError: it takes or tells something else, or comes from the very same dense network.
    """
    other, about = load_source(source)
    if (other.input_shape, other.class_names) != (attacked.input_shape, attacked.class_names):
        raise InvalidArgumentError(
            f"the other network, {about['name']}, takes other images or knows other classes"
        )
    own, its = attacked.dense.state_dict(), other.dense.state_dict()
    if own.keys() == its.keys() and all(torch.equal(own[name], its[name]) for name in own):
        raise InvalidArgumentError(
            f"the other network, {about['name']}, is made of the dense network that is attacked: name another"
        )
    return lean(other.network), about


def do(
    subject: Subject,
    bench: Bench,
    kind: str,
    eps: float,
    config: EvaluationConfig,
    known: Arrays | None = None,
) -> Arrays:
    """Change images and judge them.

    Args:
        subject: what is attacked.
        bench: what judges.
        kind: one of `KINDS`.
        eps: its bound in grey levels; 0 where it has none.
        config: how it is done.
        known: of an adaptive attack what it came to within the next smaller bound: what it won there is won here.

    Returns:
        what the bench says of them, of `AIMED` kinds without baselines, ``labels`` ``[N]`` (-1 where none is right),
        ``l2`` ``[N]``, for attacks ``noise``, the path detector's scores under normal noise of equal length (those of
        bundles under their own names), for adaptive ones ``changed``, the images, and for inflation ``bound`` ``[1]``,
        ``before`` ``[N]``, and what `Bench.time` says.
    """
    subject = subject.first(config.shown(kind))
    if kind in subject.foreign:
        shown = subject.foreign[kind]
        return bench.judge(shown) | {"labels": np.full(len(shown), -1), "l2": np.zeros(len(shown))}
    images, labels = subject.victims.floats(), subject.victims.labels
    changed = change(subject, kind, eps / 255, config, known)
    moved = np.sqrt(((changed - images) ** 2).sum(axis=(1, 2, 3)))
    judge = bench.judge_alone if kind in AIMED else bench.judge
    said = judge(changed) | {"labels": labels, "l2": moved}
    if kind in ATTACKS:
        noise = bench.judge_alone(gaussian_like(images, changed, config.seed))
        said["noise"] = noise[OWN]
        for name in noise:
            bundle, _, what = name.partition(".")
            if what in (OWN, "flag"):
                said[f"{bundle}.noise-{what}"] = noise[name]
    if kind in ADAPTIVE:
        said["changed"] = changed
    if kind == "inflation":
        said["bound"] = np.array([bound(subject.checkpoint.network)])
        said["before"] = subject.before["active_macs"]
        said |= bench.time(images, changed)
    return said


def change(
    subject: Subject, kind: str, eps: float, config: EvaluationConfig, known: Arrays | None = None
) -> Images:
    """The victims after an attack or control of ``KINDS``, with its bound in 0..1; ``known`` as in `do`."""
    images, labels, network = subject.victims.floats(), subject.victims.labels, subject.network
    if kind in CHANGES:
        return _control(images, kind, eps, config.seed)
    if kind == "inflation":
        return Inflation(steps=config.adaptive_steps)(network, images)
    if kind in METHODS:
        return _evade(subject, _adaptive(kind, eps, config), config.fpr, known)
    return _attack(subject, kind, eps, config)(network, images, labels)


def _evade(subject: Subject, attack: Adaptive, fpr: float, known: Arrays | None) -> Images:
    """An adaptive attack on what was not won within a smaller bound."""
    images, labels, guides = subject.victims.floats(), subject.victims.labels, subject.guides.floats()
    threshold = conformal_threshold(subject.calibration, fpr)
    left = np.ones(len(images), np.bool_)
    changed = images
    if known is not None:
        left = (known["predicted"] == known["labels"]) | ~(known[OWN] <= threshold)
        changed = known["changed"].copy()
    if left.any():
        score = DetectorScore(subject.detector, subject.network.layout)
        changed[left] = attack(subject.network, score, threshold, images[left], labels[left], guides)
    return changed


def active_test(subject: Subject, config: EvaluationConfig) -> Arrays:
    """By adaptive attack and bound, which evasions planted within it were found: `penstock.attacks.planted`.

    Within the smallest bound, where attacks fail if they can, and within the largest; none where none can be planted.
    """
    network = subject.network
    score = DetectorScore(subject.detector, network.layout)
    threshold = conformal_threshold(subject.calibration, config.fpr)
    honest, guides = subject.first(PLANTED).victims.floats(), subject.guides.floats()
    made: Arrays = {}
    for levels in sorted({min(config.eps), max(config.eps)}):
        eps = levels / 255
        planted = plant(network, score, threshold, honest, eps, config.seed)
        for kind in METHODS:
            if kind in config.kinds:
                attack, piece = _adaptive(kind, eps, config), named(kind, levels)
                made[piece] = np.zeros(0, np.bool_)
                if len(planted.images):
                    made[piece] = found(attack, planted, network, score, threshold, guides)
    return made


def _adaptive(kind: str, eps: float, config: EvaluationConfig) -> Adaptive:
    return Adaptive(
        method=kind,
        eps=eps,
        steps=config.adaptive_steps,
        restarts=config.adaptive_restarts,
        seed=config.seed,
    )


def _control(images: Images, kind: str, eps: float, seed: int) -> Images:
    """Honest images changed by one of ``CHANGES``; CIFAR-10-C's at the third of its five severities."""
    made: dict[str, Callable[[], Images]] = {
        "signs": lambda: random_signs(images, eps, seed),
        "jpeg": lambda: jpeg(images, QUALITY),
        "blur": lambda: blur(images),
        "gaussian": lambda: gaussian(images, 0.08, seed),
        "contrast": lambda: contrast(images, 0.4),
        "pixelate": lambda: pixelate(images, 0.85),
    }
    return made[kind]()


def _attack(subject: Subject, kind: str, eps: float, config: EvaluationConfig) -> Attack:
    seed = config.seed
    pgd = PGD(eps=eps, step=eps / 10, steps=config.pgd_steps, seed=seed)
    if kind == "transfer":
        assert subject.other is not None  # or it would not be in the plan
        return Transfer(attack=pgd, other=subject.other)
    made: dict[str, Attack] = {
        "fgsm": FGSM(eps=eps, seed=seed),
        "pgd": pgd,
        "autoattack": AutoAttack(
            eps=eps,
            steps=config.auto_steps,
            restarts=config.auto_restarts,
            queries=config.queries,
            seed=seed,
        ),
        "cw": CarliniL2(steps=config.cw_steps, searches=config.cw_searches),
        "deepfool": DeepFool(seed=seed),
        "square": Square(eps=eps, queries=config.queries, seed=seed),
    }
    return made[kind]
