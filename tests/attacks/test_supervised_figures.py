"""Supervised detectors learn one attack from half of the images, and are tested on the other half and other attacks."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.attacks.evaluation_figures import FEWEST
from penstock.attacks.supervised_figures import Codes, supervised_figures

FILTERS = 30


def found(count: int, *, opened: slice, seed: int, turned: bool) -> dict[str, np.ndarray]:
    """Codes that are noise but for some bits, which are always on."""
    draw = np.random.default_rng(seed)
    bits = draw.integers(0, 2, (count, FILTERS), dtype=np.uint8)
    bits[:, opened] = 1
    labels = np.arange(count) % 3
    return {"bits": np.packbits(bits, axis=1), "predicted": (labels + turned) % 3, "labels": labels}


@pytest.fixture(scope="module")
def codes() -> Codes:
    nothing = slice(0, 0)
    return Codes(
        filters=FILTERS,
        classes=3,
        before=found(120, opened=nothing, seed=0, turned=False),
        honest=found(200, opened=nothing, seed=1, turned=False),
        attacks={
            "low-8": found(120, opened=slice(0, 10), seed=2, turned=True),
            "high-8": found(120, opened=slice(20, 30), seed=3, turned=True),
            "failed-1": found(120, opened=nothing, seed=4, turned=False),
            "few-1": found(2 * (FEWEST - 1), opened=slice(0, 10), seed=5, turned=True),
        },
        largest=("low-8", "failed-1"),
    )


def test_an_attack_that_was_learned_is_seen_and_another_is_not(codes: Codes) -> None:
    rows = supervised_figures(codes, [10], seed=0)
    assert [row["trained_on"] for row in rows] == [
        "low-8"
    ] * 3  # of one that never works nothing can be learned
    counts = np.bincount(codes.turned("low-8", even=True).predicted)
    for row in rows:
        assert row["attacked_images"] == np.minimum(counts, 10).sum()
        low, high = row["interval_95"]
        assert low <= row["auroc"]["low-8"] <= high < low + 0.2
        assert set(row["auroc"]) == {"low-8", "high-8"}
        assert row["auroc"]["low-8"] > 0.9
        assert row["auroc"]["high-8"] < 0.7


def test_the_same_seed_gives_the_same_figures(codes: Codes) -> None:
    first, again = (supervised_figures(codes, [1, 5], seed=3) for _ in range(2))
    assert first == again
    assert len(first) == 6
