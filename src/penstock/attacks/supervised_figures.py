"""The paper's supervised detectors on the codes of an evaluation: fitted on one attack, tested on all.

Li et al. (*Interpretable Neural Network Decoupling*, ECCV 2020, https://arxiv.org/abs/1906.01166) fit classifiers to
the codes of 1, 5 or 10 images per class, and test on the attack that they were fitted on. An attacker chooses last, so
here every one of them is tested on all attacks.

Half of the attacked images, those at even places, are there to learn from, clean and attacked; the others, as the same
attack or another left them, are there to be told from clean test images that nobody has attacked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.attacks.evaluation_config import ATTACKS, named
from penstock.attacks.evaluation_figures import FEWEST, Arrays
from penstock.attacks.metrics import Scores, auroc, auroc_estimate
from penstock.detect import CLASSIFIERS, PathFeatures, SupervisedDetector
from penstock.nn.checkpoint import Checkpoint

DRAWS = 3  # of the images to learn from: one per class is a matter of luck


@dataclass(frozen=True, eq=False, kw_only=True)
class Codes:
    """What an evaluation found out about paths.

    Attributes:
        filters: P, the length of a path.
        classes: number of classes.
        before: of the attacked images while they were clean.
        honest: of clean images that nobody attacked.
        attacks: of the attacked images by attack and bound, ``pgd-8``, whether they were turned or not.
        largest: of each attack, the one to learn from: that with the largest bound.
    """

    filters: int
    classes: int
    before: Arrays
    honest: Arrays
    attacks: Mapping[str, Arrays]
    largest: tuple[str, ...]

    def features(self, found: Arrays, which: npt.NDArray[np.bool_] | slice) -> PathFeatures:
        """The codes of some images; nobody asks for their gate logits."""
        bits = np.unpackbits(found["bits"][which], axis=1, count=self.filters)
        return PathFeatures(bits, np.zeros(bits.shape, np.float32), found["predicted"][which])

    @property
    def even(self) -> npt.NDArray[np.bool_]:
        """Which of the attacked images are there to learn from."""
        even: npt.NDArray[np.bool_] = np.arange(len(self.before["predicted"])) % 2 == 0
        return even

    def turned(self, attack: str, *, even: bool) -> PathFeatures:
        """The codes of those that an attack turned, at even places or at odd ones."""
        found = self.attacks[attack]
        return self.features(
            found, (found["predicted"] != found["labels"]) & (self.even[: len(found["labels"])] == even)
        )


def codes_of(
    checkpoint: Checkpoint,
    test: Arrays,
    before: Arrays,
    founds: Mapping[tuple[str, float], Arrays],
    attacked: int,
) -> Codes:
    """What an evaluation left.

    Args:
        checkpoint: whose paths they are.
        test: of clean test images, those that were attacked first.
        before: of the attacked images that the network read right.
        founds: of pieces of work, by kind and bound; controls are left out.
        attacked: number of test images that were attacked.
    """
    attacks = {piece: found for piece, found in founds.items() if piece[0] in ATTACKS}
    largest = dict(sorted(attacks, key=lambda piece: piece[1]))
    nobody_attacked = {name: test[name][attacked:] for name in ("bits", "predicted")}
    # Where all test images were attacked, those that nobody learns from stand for the rest, as they were.
    left_over = {name: before[name][1::2] for name in ("bits", "predicted")}
    return Codes(
        filters=checkpoint.network.layout.watching.bits,
        classes=len(checkpoint.class_names),
        before=before,
        honest=nobody_attacked if len(nobody_attacked["bits"]) else left_over,
        attacks={named(*piece): found for piece, found in attacks.items()},
        largest=tuple(named(*piece) for piece in largest.items()),
    )


def supervised_figures(codes: Codes, per_class: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """AUROC by attack, for each classifier, number of images per class, and attack to learn from.

    Args:
        codes: of everything.
        per_class: numbers of images.
        seed: of the first draw.

    Returns:
        rows of ``classifier``, ``per_class``, ``trained_on``, ``attacked_images`` that it learned from, at most
        ``per_class`` of each class that they are taken for, ``auroc`` by attack that turned `FEWEST` images or more, a
        mean over `DRAWS`, and ``interval_95`` of that on other images of the same attack: from the least to the largest
        end of the draws' own.
    """
    shown = {name: codes.turned(name, even=False) for name in codes.attacks}
    shown = {name: features for name, features in shown.items() if len(features) >= FEWEST}
    rows = []
    for name, classifier, count in product(codes.largest, CLASSIFIERS, per_class):
        attacked = codes.turned(name, even=True)
        if not len(attacked) or not len(codes.honest["bits"]):
            continue
        drawn = []
        for one in range(seed, seed + DRAWS):
            detector = SupervisedDetector(classifier, classes=codes.classes, seed=one)
            detector.fit(codes.features(codes.before, codes.even), attacked, per_class=count)
            usual = _scores(detector, codes.features(codes.honest, slice(None)))
            drawn.append((usual, {each: _scores(detector, features) for each, features in shown.items()}))
        rows.append(
            {
                "classifier": classifier,
                "per_class": count,
                "trained_on": name,
                "attacked_images": int(np.minimum(np.bincount(attacked.predicted), count).sum()),
                "auroc": {
                    each: float(np.mean([auroc(usual, scores[each]) for usual, scores in drawn]))
                    for each in shown
                },
                "interval_95": _interval([(usual, scores[name]) for usual, scores in drawn if name in shown]),
            }
        )
    return rows


def _scores(detector: SupervisedDetector, features: PathFeatures) -> Scores:
    return detector.score(features).astype(np.float64)


def _interval(drawn: Sequence[tuple[Scores, Scores]]) -> tuple[float, float] | None:
    """From where the first interval of an area begins to where the last one ends; none of no draws."""
    areas = [auroc_estimate(usual, attacked) for usual, attacked in drawn]
    return (min(area.low for area in areas), max(area.high for area in areas)) if areas else None
