r"""How alike the sub-architectures of classes are, and whether classes with alike ones are taken for each other.

With ``z[c, l]`` the open channels of class ``c`` in layer ``l``, the similarity of two classes (similarSubArch.py of
the release) is the Jaccard index, and over all layers its mean:

    S_l[c, d] = |z[c, l] and z[d, l]| / |z[c, l] or z[d, l]|,        S = mean_l S_l

Two layers of which neither class opens anything are alike: 1. Dense paths are alike by chance: independent ones of
densities p and q have about ``p q / (p + q - p q)``, which `expected_similarity` gives for comparison.

The release sets the three most similar classes beside the three likeliest ones of *one* image. Here it is set against
what the network says of many: ``confusion[c, d]``, the mean softmax output for class ``d`` over images of class ``c``
(the counts of wrong answers are mostly zeros for a good network), by Spearman's rank correlation over all pairs and
by the overlap of the k nearest classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from penstock.errors import InvalidArgumentError
from penstock.paths import Floats, PathSet

RANKED = 3  # classes at least: one pair has no ranks


@dataclass(frozen=True, kw_only=True)
class AgreementFigures:
    """Similar sub-architectures against confusions.

    Attributes:
        images: number of images behind the confusions.
        similarity: ``[c][d]`` mean similarity of two classes' sub-architectures.
        confusion: ``[c][d]`` mean softmax output for class d over images of class c.
        spearman: rank correlation over the pairs of classes of mean similarity and confusion, made symmetric.
        p_value: share of permutations of the classes' names with a correlation at least as high (Mantel's test).
        spearman_by_layer: the same correlation, of each layer's similarity.
        top_k: k.
        top_k_agreement: share of the k classes most confused with a class that are among its k most similar ones.
        top_k_chance: what classes drawn at random agree in.
    """

    images: int
    similarity: tuple[tuple[float, ...], ...]
    confusion: tuple[tuple[float, ...], ...]
    spearman: float
    p_value: float
    spearman_by_layer: tuple[float, ...]
    top_k: int
    top_k_agreement: float
    top_k_chance: float


def expected_similarity(paths: PathSet) -> Floats:
    """Jaccard indices ``[layers, N, N]`` that independent paths of these densities would about have."""
    layers = []
    for codes in paths.layout.split(paths.bits):
        density = codes.mean(axis=1, dtype=np.float64)
        both = density[:, None] * density
        either = density[:, None] + density - both
        layers.append(np.where(either > 0, both / np.where(either > 0, either, 1), 1.0))
    return np.stack(layers)


def confusion(probabilities: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    """``[classes, classes]`` mean softmax output over each class's images.

    Args:
        probabilities: ``[N, classes]``.
        labels: ``[N]``.
    """
    classes = probabilities.shape[1]
    return np.stack([probabilities[labels == label].mean(axis=0) for label in range(classes)])


def agreement(
    similar: Floats, confused: Floats, images: int, *, top: int = 3, permutations: int = 2000, seed: int = 0
) -> AgreementFigures:
    """Compare similarity with confusion.

    Args:
        similar: ``[layers, classes, classes]``.
        confused: ``[classes, classes]``, row the true class.
        images: number of images behind it.
        top: k; at most the number of other classes.
        permutations: of the test.
        seed: of the test.

    Raises:
        InvalidArgumentError: fewer than three classes: one pair has no ranks.
    """
    classes = len(confused)
    if classes < RANKED:
        raise InvalidArgumentError(f"{classes} classes; at least {RANKED} are needed to rank pairs of them")
    top = min(top, classes - 1)
    mean = similar.mean(axis=0)
    both_ways = (confused + confused.T) / 2
    pairs = np.triu_indices(classes, 1)
    spearman = rank_correlation(mean[pairs], both_ways[pairs])
    draw = np.random.default_rng(seed)
    higher = 0
    for _ in range(permutations):
        order = draw.permutation(classes)
        higher += rank_correlation(mean[np.ix_(order, order)][pairs], both_ways[pairs]) >= spearman
    return AgreementFigures(
        images=images,
        similarity=_rows(mean),
        confusion=_rows(confused),
        spearman=spearman,
        p_value=(higher + 1) / (permutations + 1),
        spearman_by_layer=tuple(rank_correlation(layer[pairs], both_ways[pairs]) for layer in similar),
        top_k=top,
        top_k_agreement=top_agreement(mean, confused, top),
        top_k_chance=top / (classes - 1),
    )


def rank_correlation(first: Floats, second: Floats) -> float:
    """Spearman's correlation of ``[N]`` and ``[N]``, ties at their mean rank; 0 where one of them is constant."""
    a, b = (ranks - ranks.mean() for ranks in (rankdata(first), rankdata(second)))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else 0.0


def top_agreement(similar: Floats, confused: Floats, top: int) -> float:
    """Share of each class's ``top`` most confused classes that are among its most similar ones, mean over classes."""
    shares = []
    for label in range(len(confused)):
        others = np.flatnonzero(np.arange(len(confused)) != label)
        nearest = [
            set(others[np.argsort(-matrix[label, others], kind="stable")[:top]])
            for matrix in (similar, confused)
        ]
        shares.append(len(nearest[0] & nearest[1]) / top)
    return float(np.mean(shares))


def _rows(matrix: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in matrix)
