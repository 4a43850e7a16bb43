import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import Follower, PathLayer, PathLayout, PathSet
from penstock.errors import InvalidArgumentError

LAYOUT = PathLayout(
    layers=(PathLayer(name="a", filters=2, macs=100), PathLayer(name="b", filters=4, macs=200, sources=(0,))),
    fixed_macs=20,
    dense_macs=300,
)


@st.composite
def layouts(draw: st.DrawFn) -> PathLayout:
    layers: list[PathLayer] = []
    for index in range(draw(st.integers(1, 4))):
        sources = tuple(draw(st.lists(st.integers(0, index - 1), max_size=3))) if index else ()
        filters, macs = draw(st.integers(1, 5)), draw(st.integers(0, 1000))
        layers.append(PathLayer(name=f"layer{index}", filters=filters, macs=macs, sources=sources))
    return PathLayout(
        layers=tuple(layers), fixed_macs=draw(st.integers(0, 100)), dense_macs=draw(st.integers(1, 5000))
    )


def paths(layout: PathLayout, seed: int, count: int = 8) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 2, (count, layout.bits), dtype=np.uint8)


def test_cost_of_a_path_by_hand() -> None:
    path = np.array([[1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]], dtype=np.uint8)
    expected = [(20 + 50 + 200 * 0.75 * 0.5) / 300, 320 / 300, 20 / 300]
    assert LAYOUT.active_macs(path) == pytest.approx(expected)


def test_cost_of_several_sources_and_of_a_follower_by_hand() -> None:
    layers = (
        PathLayer(name="a", filters=2, macs=100),
        PathLayer(name="b", filters=4, macs=200),
        PathLayer(
            name="c", filters=1, macs=300, sources=(0, 1, 1), ungated=2
        ),  # concatenates a, b, b, and 2 others
    )
    follower = Follower(name="d", macs=400, sources=(1,))
    layout = PathLayout(layers=layers, fixed_macs=10, dense_macs=1000, followers=(follower,))
    path = np.array([[1, 0, 1, 0, 0, 0, 1]], dtype=np.uint8)
    entering = (1 + 1 + 1 + 2) / (2 + 4 + 4 + 2)
    assert layout.active_macs(path) == pytest.approx([(10 + 50 + 50 + 300 * entering + 400 / 4) / 1000])
    whole = layout.reading_whole({"c", "d"})
    assert whole.active_macs(path) == pytest.approx([(10 + 50 + 50 + 300 + 400) / 1000])
    assert PathLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@given(layout=layouts())
def test_json_round_trip(layout: PathLayout) -> None:
    assert PathLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@given(layout=layouts(), seed=st.integers(0, 99))
def test_a_subset_of_the_filters_never_costs_more(layout: PathLayout, seed: int) -> None:
    path = paths(layout, seed)
    subset = path & paths(layout, seed + 1)
    assert (layout.active_macs(subset) <= layout.active_macs(path) + 1e-12).all()
    whole = layout.active_macs(np.ones((1, layout.bits), dtype=np.uint8))
    assert whole == pytest.approx(
        (layout.fixed_macs + sum(layer.macs for layer in layout.layers)) / layout.dense_macs
    )


@given(layout=layouts(), seed=st.integers(0, 99))
def test_split_puts_the_layers_end_to_end(layout: PathLayout, seed: int) -> None:
    path = paths(layout, seed)
    parts = list(layout.split(path))
    assert [part.shape[1] for part in parts] == [layer.filters for layer in layout.layers]
    assert np.array_equal(np.concatenate(parts, axis=1), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [{"name": "a", "filters": 0, "macs": 1}]}, "'a' has 0 filters"),
        ({"layers": [{"name": "a", "filters": 1, "macs": -1}]}, "'a' has -1 MACs"),
        ({"layers": [{"name": "a", "filters": 1, "macs": 1, "sources": [0]}]}, "source 0"),
        ({"layers": [{"name": "a", "filters": 1, "macs": 1, "sources": 0}]}, "sources is 0"),
        ({"layers": [{"name": "a", "filters": 1, "macs": 1, "ungated": -2}]}, "-2 ungated inputs"),
        ({"layers": [{"name": "a", "filters": 1, "macs": 1, "source": None}]}, "source"),
        ({"followers": [{"name": "a", "macs": 1, "sources": [2]}]}, "source 2"),
        ({"layers": [{"name": "a", "filters": 1}]}, "macs"),
        ({"layers": [{"name": "a", "filters": "1", "macs": 1}]}, "not a path layout"),
        ({"layers": None}, "not a path layout"),
        ({"fixed_macs": -1}, "fixed_macs is -1"),
        ({"fixed_macs": "100"}, "fixed_macs is '100'; expected int"),
        ({"layers": [{"name": 1, "filters": 1, "macs": 1}]}, "name is 1; expected str"),
        ({"dense_macs": 0}, "dense_macs is 0"),
    ],
    ids=str,
)
def test_layouts_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        PathLayout.from_json(LAYOUT.to_json() | change)


def test_a_set_counts_its_paths() -> None:
    bits = np.array([[1, 0, 1, 1, 0, 0], [1, 1, 0, 1, 0, 0]], dtype=np.uint8)
    some = PathSet(LAYOUT, bits)
    assert len(some) == 2
    assert some.opening_rate.tolist() == [1, 0.5, 0.5, 1, 0, 0]
    assert some.layer_density().tolist() == [0.75, 0.375]
    assert some.varying().tolist() == [False, True, True, False, False, False]
    assert some.active_macs.tolist() == LAYOUT.active_macs(bits).tolist()
    by_class = some.by_class(np.array([2, 2]), classes=3)
    assert np.isnan(by_class[:2]).all()
    assert by_class[2].tolist() == some.opening_rate.tolist()


def test_paths_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(2, 5\).*\[N, 6\]"):
        PathSet(LAYOUT, np.zeros((2, 5), dtype=np.uint8))


def test_sets_can_be_compared_and_kept_in_a_set() -> None:
    """Arrays have no single truth value: a set of paths equals itself only."""
    one, other = (PathSet(LAYOUT, np.zeros((2, 6), dtype=np.uint8)) for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other}) == 2
