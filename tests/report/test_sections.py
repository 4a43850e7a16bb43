"""Sections from data made by hand, whose figures are known."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from penstock.errors import InvalidArgumentError
from penstock.paths import PathLayout, PathSet
from penstock.report.combinations import telling_filters
from penstock.report.logs import Curves
from penstock.report.observation import Observation
from penstock.report.section_classes import classes_section
from penstock.report.section_combinations import combinations_section, most_telling_layer, spread
from penstock.report.section_disentanglement import ClassPaths, HitRates, disentanglement_section
from penstock.report.section_layers import KINDS, filter_kinds, layers_section
from penstock.report.section_prototypes import Prototypes, prototypes_section, stage_work, use_by_class
from penstock.report.section_training import training_section
from penstock.report.thumbnails import data_uri, thumbnails

Make = Callable[..., Observation]
NAMES = ("cat & co", "<dog>")


def paths_of(layout: PathLayout, *rows: str) -> PathSet:
    return PathSet(layout, np.array([[int(bit) for bit in row] for row in rows], dtype=np.uint8))


@pytest.fixture
def seen(layout: PathLayout, made: Make) -> Observation:
    """Filter 1 of the first layer and filter 0 of the second go with the class, filter 2 of the second with nothing."""
    paths = paths_of(layout, "10100", "10101", "10101", "11000", "11001", "11001")
    return made(paths, [0, 0, 0, 1, 1, 1], NAMES, predicted=np.array([0, 0, 0, 1, 1, 0]))


def test_kinds_of_filters_are_told_apart(seen: Observation) -> None:
    kinds = filter_kinds(seen.paths, seen.dependence)
    assert kinds.tolist() == [[0.5, 0.5, 0, 0], [0, 2 / 3, 0, 1 / 3]]
    assert kinds.sum(axis=1) == pytest.approx(1)


def test_filters_that_noise_flips_get_a_bar_of_their_own(seen: Observation) -> None:
    steady = layers_section(seen.paths, seen.dependence).body
    trembling = type(seen.dependence)(
        np.full(5, 0.5), seen.dependence.class_rates, seen.dependence.class_shares
    )
    assert filter_kinds(seen.paths, trembling)[:, 2].tolist() == [0.5, 2 / 3]
    assert KINDS[2] not in steady
    assert KINDS[2] in layers_section(seen.paths, trembling).body


def test_the_most_telling_layer_is_combined(seen: Observation) -> None:
    assert most_telling_layer(seen) == 0  # equally telling ones: the first
    section = combinations_section(seen)
    assert "The gates of low as combinations of 1 of its filters" in section.lead
    assert "0.52 of its 0.69 nats" in section.lead  # all, but for counts of so few images
    assert section.body.count("100.0% of the class; of all images that use it, 100.0% are of this class") == 2
    assert "<h3>cat &amp; co</h3>" in section.body
    assert "&lt;dog&gt;, image 1005, taken for cat &amp; co" in section.body
    assert section.body.count('class="wrong coarse"') == 1


def test_nothing_to_combine_is_said(layout: PathLayout, made: Make) -> None:
    section = combinations_section(made(paths_of(layout, "11111", "11111"), [0, 1], NAMES))
    assert section.lead == "No filter of low tells anything about the class."


def test_other_classes_that_use_a_combination_are_counted(layout: PathLayout, made: Make) -> None:
    rows = ["10100"] * 3 + ["10000", "10000", "10100"]
    seen = made(paths_of(layout, *rows), [0, 0, 0, 1, 1, 1], NAMES)
    picked, _ = telling_filters(seen.paths.bits[:, 2:], seen.images.labels, 2, 3)
    assert picked.tolist() == [0]
    body = combinations_section(seen).body
    assert "Other classes that use it: &lt;dog&gt; (1)" in body
    assert "100.0% of the class; of all images that use it, 75.0% are of this class" in body


def test_places_are_spread_evenly() -> None:
    assert spread(np.arange(5), 8).tolist() == [0, 1, 2, 3, 4]
    assert spread(np.arange(100), 3).tolist() == [0, 49, 99]


def test_classes_name_the_most_and_least_alike(layout: PathLayout) -> None:
    rates = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 0.5, 0], [1, 1, 0, 0, 1]])
    body = classes_section(layout, rates, ("a", "<b>", "c")).body
    assert "most alike are a and &lt;b&gt; (0.67), the least a and c (0.00)" in body
    assert "<b>" not in body


def test_a_class_without_images_leaves_the_pictures_standing(layout: PathLayout, made: Make) -> None:
    seen = made(paths_of(layout, "10100", "11001", "01010"), [0, 0, 2], ("a", "b", "c"))
    assert "<svg" in classes_section(layout, seen.dependence.class_rates, seen.images.class_names).body
    assert "No image of this class is among them." in combinations_section(seen).body


def test_curves_are_drawn_for_each_training() -> None:
    epochs = np.arange(1.0, 4.0)
    dense = Curves("dense", epochs, {"val/accuracy": np.array([0.2, 0.9, 0.8]), "train/task": epochs})
    gated = Curves("decouple", epochs[:1], {"val/active_macs": np.array([0.5]), "train/a_b": -epochs[:1]})
    body = training_section([dense, gated], 0.52).body
    assert "Training dense over 3 epochs; best validation accuracy 90.0%." in body
    assert "Training decouple over 1 epochs; best validation accuracy not logged." in body
    assert body.count("budget, 52%") == 1  # only where there are gates
    assert "a b" in body


def test_without_curves_there_is_a_note() -> None:
    section = training_section([], 0.5)
    assert "No training logs" in section.lead
    assert section.body == ""


def test_use_of_prototypes_is_counted_by_class() -> None:
    shares = use_by_class(np.array([0, 0, 2, 2]), np.array([0, 0, 0, 2]), count=3, classes=3)
    assert shares[0].tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    assert np.isnan(shares[1]).all()
    assert shares[2].tolist() == [0, 0, 1]


def test_work_is_measured_beside_the_stage_with_all_open(layout: PathLayout) -> None:
    bits = (np.array([[1, 1], [1, 0], [0, 0]]), np.array([[1, 0, 0], [1, 1, 0]]))
    low, high = stage_work(layout, tuple(own.astype(np.uint8) for own in bits))
    assert low.tolist() == pytest.approx([1, 0.5, 0])
    assert high.tolist() == pytest.approx([1 / 3, 2 / 3])


def test_prototypes_are_shown_with_use_classes_work_and_images(seen: Observation) -> None:
    bits = (np.array([[1, 0], [1, 1]], dtype=np.uint8), np.array([[1, 0, 0], [0, 0, 1]], dtype=np.uint8))
    chosen = np.array([[0, 0]] * 3 + [[1, 0]] * 3)
    body = prototypes_section(seen, seen.paths.layout, Prototypes(bits, chosen)).body
    assert "Stage 1: 2 of 2 prototypes are used" in body
    assert "Stage 2: 1 of 2 prototypes are used" in body
    assert f"3 of {len(seen.images)} images, 50% of the stage&#x27;s work; cat &amp; co (100%)" in body
    assert (
        f"6 of {len(seen.images)} images, 33% of the stage&#x27;s work; cat &amp; co (50%), &lt;dog&gt; (50%)"
        in body
    )
    assert len(re.findall("<img ", body)) == 3 + 3 + 6


def test_prototypes_that_do_not_fit_are_refused(layout: PathLayout) -> None:
    stage = np.zeros((2, 5), dtype=np.uint8)
    with pytest.raises(InvalidArgumentError, match=r"shape \(4, 2\); 1 stages"):
        Prototypes((stage,), np.zeros((4, 2), dtype=np.int64))
    with pytest.raises(InvalidArgumentError, match="has 2 prototypes; the choices run from 0 to 2"):
        Prototypes((stage,), np.array([[0], [2]]))
    with pytest.raises(InvalidArgumentError, match=r"\[4\] filters do not make up a path of 5"):
        stage_work(layout, (stage[:, :4],))


def test_sub_architectures_are_compared_and_sized(layout: PathLayout) -> None:
    rates = HitRates(mean=np.array([0.3, 0.6]), deviation=np.array([0.1, 0.2]))
    found = ClassPaths(
        paths=paths_of(layout, "11111", "11100", "00011"), class_names=("a", "<b>", "c"), hit_rates=rates
    )
    body = disentanglement_section(found).body
    assert "most alike are a and &lt;b&gt; (0.67), the least &lt;b&gt; and c (0.00)" in body
    assert "one standard deviation over mosaics and their classes." in body
    assert "Path hit rate by layer, 30% in the first and 60% in the last; chance is 25%." in body
    assert '<th scope="row">&lt;b&gt;</th><td>60.0%</td><td>80.0%</td>' in body


def test_hit_rates_are_left_out_where_none_were_measured(layout: PathLayout) -> None:
    found = ClassPaths(paths=paths_of(layout, "11111", "11100"), class_names=("a", "b"))
    assert "hit rate" not in disentanglement_section(found).body


def test_sub_architectures_that_do_not_fit_are_refused(layout: PathLayout) -> None:
    paths = paths_of(layout, "11111", "11100")
    with pytest.raises(InvalidArgumentError, match="2 paths for 1 classes"):
        ClassPaths(paths=paths, class_names=("a",))
    rates = HitRates(mean=np.zeros(3), deviation=np.zeros(3))
    with pytest.raises(InvalidArgumentError, match=r"shape \(3,\); the paths have 2 layers"):
        ClassPaths(paths=paths, class_names=("a", "b"), hit_rates=rates)


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 8, 8), (8, 8)), ((3, 32, 48), (48, 32)), ((3, 256, 128), (32, 64))]
)
def test_thumbnails_are_small_pictures(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    picture = Image.open(io.BytesIO(base64.b64decode(data_uri(image).removeprefix("data:image/png;base64,"))))
    assert picture.size == size
    if max(shape) <= 64:
        pixels: Any = np.asarray(picture)
        assert np.array_equal(
            pixels if len(shape) == 2 or shape[0] == 1 else pixels.transpose(2, 0, 1), image.squeeze()
        )


def test_a_thumbnail_says_what_it_shows(seen: Observation) -> None:
    made = thumbnails(seen, [0, 5])
    assert 'alt="cat &amp; co, image 1000"' in made
    assert 'alt="&lt;dog&gt;, image 1005, taken for cat &amp; co"' in made
