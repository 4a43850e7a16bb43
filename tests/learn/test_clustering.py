"""Prototypes from made-up answers, whose best groups and whose costs are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigurationError
from penstock.learn.clustering import Prototypes, find_prototypes, paths_of
from penstock.nn.inference import Answers
from penstock.paths import Follower, PathLayer, PathLayout

STAGES = (2, 1)
LAYOUT = PathLayout(
    layers=(
        PathLayer(name="a", filters=6, macs=200),
        PathLayer(name="b", filters=5, macs=300, sources=(0,)),
        PathLayer(name="c", filters=7, macs=350, sources=(1,), ungated=2),
    ),
    fixed_macs=120,
    dense_macs=1000,
    followers=(Follower(name="d", macs=30, sources=(2,)),),
)
LEAST = 0.27  # one filter of every layer, and what every input pays, with some room
FULL = 1.0


def answers(seed: int, count: int = 40) -> Answers:
    draw = np.random.default_rng(seed)
    y = draw.normal(0, 2, (count, LAYOUT.bits)).astype(np.float32)
    return of_logits(y, draw.normal(size=(count, 4)).astype(np.float32))


def of_logits(y: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> Answers:
    return Answers(logits, (y > 0).astype(np.uint8), y, np.zeros(len(y), np.float32))


def costs(found: Prototypes) -> npt.NDArray[np.float64]:
    """Of each image's prototypes."""
    return LAYOUT.active_macs(paths_of(found.bits, found.groups))


def dearest_filter() -> float:
    """What a filter can cost at most: with everything else open."""
    without = 1 - np.eye(LAYOUT.bits)
    return float((LAYOUT.active_macs(np.ones((1, LAYOUT.bits))) - LAYOUT.active_macs(without)).max())


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 5),
    budget=st.floats(LEAST, 1.2),
    evenness=st.floats(0, 1),
    images=st.integers(1, 60),
)
def test_the_budget_is_met_to_within_one_filter(
    seed: int, count: int, budget: float, evenness: float, images: int
) -> None:
    found = find_prototypes(
        answers(seed, images), LAYOUT, STAGES, count, budget=budget, evenness=evenness, seed=seed
    )
    assert [bits.shape for bits in found.bits] == [(count, 11), (count, 7)]
    assert found.groups.shape == (images, 2)
    assert {0, 1} >= set(np.unique(np.concatenate([bits.ravel() for bits in found.bits])))
    spent = costs(found).mean()
    assert spent <= budget + 1e-9
    assert spent >= min(budget, FULL) - dearest_filter() - 1e-9


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 5),
    budget=st.floats(0.45, 0.65),
    spread=st.floats(0.0, 0.4),
)
def test_groups_by_difficulty_are_equal_shares_and_cost_the_more_the_harder(
    seed: int, count: int, budget: float, spread: float
) -> None:
    given_ = answers(seed, 8 * count)
    found = find_prototypes(
        given_, LAYOUT, STAGES, count, budget=budget, grouping="difficulty", spread=spread
    )
    groups = found.groups[:, 0]
    assert (found.groups == groups[:, None]).all()  # the same in all stages
    assert (np.bincount(groups, minlength=count) == 8).all()
    probability = np.exp(given_.logits) / np.exp(given_.logits).sum(1, keepdims=True)
    sure = probability.max(1)
    for k in range(count - 1):
        assert sure[groups == k].min() >= sure[groups == k + 1].max() - 1e-6
    wanted = budget * (np.linspace(1 - spread, 1 + spread, count) if count > 1 else np.ones(1))
    spent = np.array([costs(found)[groups == k][0] for k in range(count)])
    assert (spent <= wanted + 1e-9).all()
    assert (spent >= wanted - dearest_filter() - 1e-9).all()
    if count > 1 and spread * 2 * budget / (count - 1) > dearest_filter():
        assert (np.diff(spent) > 0).all()


def test_kinds_of_images_are_found_and_keep_their_own_filters() -> None:
    draw = np.random.default_rng(0)
    kinds = np.zeros((3, LAYOUT.bits), bool)
    for kind in range(3):
        kinds[kind, kind::3] = True
    which = draw.permutation(np.repeat(np.arange(3), 20))
    y = np.where(kinds[which], 3.0, -3.0) + draw.normal(0, 0.1, (60, LAYOUT.bits))
    given_ = of_logits(y.astype(np.float32), np.zeros((60, 4), np.float32))
    budget = float(LAYOUT.active_macs(kinds[which]).mean())
    found = find_prototypes(given_, LAYOUT, STAGES, 3, budget=budget + 1e-9)
    np.testing.assert_array_equal(paths_of(found.bits, found.groups), kinds[which])


@pytest.mark.parametrize("grouping", ["paths", "difficulty"])
def test_the_same_seed_finds_the_same(grouping: str) -> None:
    one, again = (
        find_prototypes(answers(3), LAYOUT, STAGES, 4, budget=0.6, grouping=grouping, seed=5)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.groups, again.groups)
    for bits, other in zip(one.bits, again.bits, strict=True):
        np.testing.assert_array_equal(bits, other)


def test_one_prototype_keeps_what_is_open_most_often() -> None:
    y = answers(0).gate_logits
    found = find_prototypes(answers(0), LAYOUT, STAGES, 1, budget=0.5)
    opening = (1 / (1 + np.exp(-y.astype(np.float64)))).mean(0)
    path = np.concatenate([bits[0] for bits in found.bits]).astype(bool)
    assert opening[path].min() > opening[~path].max()
    assert not found.groups.any()


@pytest.mark.parametrize("grouping", ["paths", "difficulty"])
def test_fewer_kinds_of_images_than_prototypes_leave_groups_empty_without_a_warning(grouping: str) -> None:
    y = np.repeat(answers(1, 2).gate_logits, 5, axis=0)
    given_ = of_logits(y, np.zeros((10, 4), np.float32))
    found = find_prototypes(given_, LAYOUT, STAGES, 16, budget=0.6, grouping=grouping, spread=0.2)
    used = [len(np.unique(found.groups[:, stage])) for stage in range(2)]
    assert used == ([2, 2] if grouping == "paths" else [10, 10])
    assert costs(found).mean() <= 0.6
    assert all(bits.shape[0] == 16 for bits in found.bits)


@pytest.mark.parametrize("level", [60.0, 1000.0])
def test_gates_that_are_sure_beyond_double_precision_still_fill_the_budget(level: float) -> None:
    y = np.full((5, LAYOUT.bits), level, np.float32)
    y[:, ::4] = -level
    found = find_prototypes(of_logits(y, np.zeros((5, 4), np.float32)), LAYOUT, STAGES, 2, budget=0.4)
    assert 0.4 - dearest_filter() <= costs(found).mean() <= 0.4
    path = paths_of(found.bits, found.groups)
    assert not path[:, ::4].any()


def test_no_layer_is_closed_as_a_whole() -> None:
    y = answers(2).gate_logits.copy()
    y[:, 6:11] -= 20
    found = find_prototypes(of_logits(y, answers(2).logits), LAYOUT, STAGES, 3, budget=0.3)
    path = np.concatenate(found.bits, axis=1)
    assert (path[:, 6:11].sum(1) == 1).all()
    assert all((path[:, part].sum(1) > 0).all() for part in LAYOUT.slices)


def test_evenness_keeps_a_seldom_opened_layer_as_dense_as_the_others() -> None:
    y = np.linspace(1, 2, LAYOUT.bits, dtype=np.float32) - np.repeat([0, 9, 0], [6, 5, 7]).astype(np.float32)
    logits = np.zeros((10, 4), np.float32)
    found = {
        evenness: np.concatenate(
            find_prototypes(
                of_logits(np.tile(y, (10, 1)), logits), LAYOUT, STAGES, 1, budget=0.5, evenness=evenness
            ).bits,
            axis=1,
        )[0]
        for evenness in (0.0, 1.0)
    }
    density = {evenness: [own.mean() for own in LAYOUT.split(bits)] for evenness, bits in found.items()}
    assert density[0.0][1] == 1 / 5
    assert max(density[1.0]) - min(density[1.0]) < 0.25
    # Within a layer it is still the most readily opened filters that stay.
    assert all((np.diff(own.astype(int)) >= 0).all() for own in LAYOUT.split(found[1.0]))


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 4),
    budget=st.floats(0.6, 1.2),
    evenness=st.floats(0, 1),
    align=st.integers(1, 3),
    grouping=st.sampled_from(["paths", "difficulty"]),
)
def test_aligned_layers_keep_whole_blocks_of_their_most_readily_opened_filters(
    seed: int, count: int, budget: float, evenness: float, align: int, grouping: str
) -> None:
    given_ = answers(seed)
    found = find_prototypes(
        given_,
        LAYOUT,
        STAGES,
        count,
        budget=budget,
        grouping=grouping,
        spread=0.0,
        evenness=evenness,
        align=align,
        seed=seed,
    )
    spent = costs(found).mean()
    assert min(budget, FULL) - align * dearest_filter() - 1e-9 <= spent <= budget + 1e-9
    opening = 1 / (1 + np.exp(-given_.gate_logits.astype(np.float64)))
    for k in range(count):
        path = np.concatenate([bits[k] for bits in found.bits]).astype(bool)
        own = np.concatenate(
            [
                opening[groups == k].mean(0)[part] if (groups == k).any() else opening.mean(0)[part]
                for groups, part in zip(found.groups.T, (slice(0, 11), slice(11, None)), strict=True)
            ]
        )
        for kept, mean in zip(LAYOUT.split(path), LAYOUT.split(own), strict=True):
            assert kept.sum() % align == 0 or kept.all()
            assert kept.all() or mean[kept].min() > mean[~kept].max()


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"budget is 0\.100; the fewest filters of every layer, .* larger budget"
    ):
        find_prototypes(answers(0), LAYOUT, STAGES, 2, budget=0.1)
    with pytest.raises(
        ConfigurationError, match=r"0\.050; .*; with spread 0\.9, the easiest images may cost 0\.10"
    ):
        find_prototypes(answers(0), LAYOUT, STAGES, 3, budget=0.5, grouping="difficulty", spread=0.9)


def test_an_unknown_grouping_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no grouping 'colour'; there are paths, difficulty"):
        find_prototypes(answers(0), LAYOUT, STAGES, 3, budget=0.5, grouping="colour")
