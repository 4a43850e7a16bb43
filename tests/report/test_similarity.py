import numpy as np

from penstock.learn.similarity import between_classes, layer_similarities
from penstock.paths import PathLayout
from penstock.report.section_classes import extreme_pairs


def test_a_class_without_images_is_left_out(layout: PathLayout) -> None:
    rates = np.array([[1, 0, 1, 0, 0], [np.nan] * 5, [1, 1, 1, 0, 0]])
    similarities = layer_similarities(layout, rates)
    assert similarities.shape == (2, 3, 3)
    assert between_classes(similarities).tolist() == [[0.5], [1.0]]
    assert extreme_pairs(similarities[0], ["a", "b", "c"]) == ("a and c (0.50)", "a and c (0.50)")


def test_extremes_are_named() -> None:
    similarity = np.array([[1, 0.2, 0.9], [0.2, 1, 0.4], [0.9, 0.4, 1]])
    assert extreme_pairs(similarity, ["cat", "ship", "dog"]) == ("cat and dog (0.90)", "cat and ship (0.20)")
