"""Choosing stage by stage: what is measured, what is kept between rounds, and what the record says of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from penstock.errors import UnsupportedError
from penstock.export.autotune.bench import Bench, Finish
from penstock.export.autotune.engines import Loaded, load
from penstock.export.autotune.search import search
from penstock.export.autotune.stages import FORMS, MASKED, PICKINGS, Choice, tunable
from penstock.export.autotune.target import Target
from penstock.export.autotune.tune import tune
from penstock.export.compiling import serialize
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.passes.simplify import tidy

Captured = Any  # of conftest


class Timed:
    """Choices whose times are known: each stage's share of them, so that what is found must be the sum's least."""

    def __init__(self, shares: list[dict[str, float]]) -> None:
        self.shares = shares
        self.rounds: list[set[Choice]] = []
        self.kept: list[Choice] = []

    def measure(self, choices: Mapping[str, Choice]) -> dict[str, float]:
        self.rounds.append(set(choices.values()))
        return {
            name: sum(share[option] for share, option in zip(self.shares, choice, strict=True))
            for name, choice in choices.items()
            if all(option in share for share, option in zip(self.shares, choice, strict=True))
        }

    def distinct(self, choices: Mapping[str, Choice]) -> list[str]:
        """Choices with the same shares in every stage are the same."""
        first: dict[tuple[float, ...], str] = {}
        for name, choice in choices.items():
            if all(option in share for share, option in zip(self.shares, choice, strict=True)):
                shares = tuple(share[option] for share, option in zip(self.shares, choice, strict=True))
                first.setdefault(shares, name)
        return list(first.values())

    def keep(self, choice: Choice) -> None:
        self.kept.append(choice)


def test_each_stage_takes_what_is_fastest_there_and_the_rounds_are_kept() -> None:
    contest = Timed([{"a": 3, "b": 2}, {"a": 1, "b": 4}, {"a": 5, "b": 4.99}])
    found = search(3, ("a", "b", "impossible"), contest)
    assert found.uniform == {"a": 9, "b": 10.99}
    assert found.choice == ("b", "a", "a")  # the last stage's other option is too little faster
    assert found.rounds == ({"a": 9, "b": 8}, {"a": 8, "b": 11}, {"a": 8, "b": pytest.approx(7.99)})
    assert contest.kept == [("a", "a", "a"), ("b", "a", "a"), ("b", "a", "a"), ("b", "a", "a")]
    for kept, next_round in zip(contest.kept, contest.rounds[1:], strict=False):
        assert kept in next_round  # what is kept is measured again, and need not be made again


def test_where_there_is_nothing_to_choose_one_round_is_enough() -> None:
    one_stage, one_option = Timed([{"a": 3, "b": 2}]), Timed([{"a": 3}, {"a": 1}])
    assert search(1, ("a", "b"), one_stage).rounds == ({"a": 3, "b": 2},)
    assert search(2, ("a", "b"), one_option).rounds == ({}, {})
    assert len(one_stage.rounds) == len(one_option.rounds) == 1
    with pytest.raises(UnsupportedError, match="none of the lowerings"):
        search(1, ("b",), Timed([{"a": 1}]))


def test_options_that_are_one_graph_have_one_round_and_one_name() -> None:
    alike = Timed([{"a": 3, "b": 3, "c": 2}, {"a": 1, "b": 1, "c": 4}])
    found = search(2, ("a", "b", "c"), alike)
    assert found.uniform == {"a": 4, "c": 6}
    assert [times.keys() for times in found.rounds] == [{"a", "c"}, {"a", "c"}]
    one = Timed([{"a": 3, "b": 3}, {"a": 1, "b": 1}])
    assert search(2, ("a", "b"), one).rounds == ({}, {})
    assert len(one.rounds) == 1


@pytest.fixture
def images(some_images: Callable[..., npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    return some_images(4)


@pytest.fixture
def made() -> list[str]:
    """The names of the lowerings whose graphs were finished, in order."""
    return []


@pytest.fixture
def finish(made: list[str]) -> Finish:
    def finished(model: ir.Model, lowering: Lowering) -> bytes:
        made.append(lowering.name)
        return serialize(tidy(model))

    return finished


def test_a_graph_that_is_kept_is_not_made_again_and_others_go(
    captured: dict[str, Captured],
    images: npt.NDArray[np.uint8],
    made: list[str],
    finish: Finish,
) -> None:
    model = captured["residual"].model
    parts = tunable(model.graph, single=False)
    bench = Bench(model, parts, images, Target(), finish)
    alike: dict[str, Choice] = {option: (option,) * len(parts.stages) for option in ("gathered", MASKED)}
    assert bench.measure(alike).keys() == alike.keys()
    assert made == ["gathered", "masked"]
    kept = bench.graph(alike[MASKED])
    other: weakref.ReferenceType[Loaded] = weakref.ref(bench.graph(alike["gathered"]))
    bench.keep(alike[MASKED])
    assert other() is None
    assert bench.measure({MASKED: alike[MASKED]})[MASKED] > 0
    assert bench.graph(alike[MASKED]) is kept
    assert len(made) == 2
    bench.measure(alike)
    assert made == ["gathered", "masked", "gathered"]


class Refusing:
    """A graph with a branch that the engine cannot run, which the third image takes."""

    def __init__(self) -> None:
        self.asked = 0

    def run_batch(self, _: object) -> None:
        self.asked += 1
        if self.asked == 3:
            raise UnsupportedError("this branch is too much for the engine")


def test_a_choice_that_an_engine_refuses_only_at_some_image_is_left_out(
    captured: dict[str, Captured],
    images: npt.NDArray[np.uint8],
    finish: Finish,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loaded(content: bytes, *more: Any, single: bool, threads: int) -> Any:
        return load(content, *more, single=single, threads=threads) if single else Refusing()

    monkeypatch.setattr("penstock.export.autotune.bench.load", loaded)
    model = captured["residual"].model
    parts = tunable(model.graph, single=False)
    bench = Bench(model, parts, images, Target(), finish)
    alike: dict[str, Choice] = {option: (option,) * len(parts.stages) for option in ("gathered", MASKED)}
    assert bench.measure(alike).keys() == {"gathered"}
    assert bench.distinct(alike) == ["gathered"]
    assert bench.reasons == ["masked: this branch is too much for the engine"]


def test_options_that_come_to_the_same_graph_are_measured_as_one(
    routed: Callable[[str], Captured],
    images: npt.NDArray[np.uint8],
    made: list[str],
    finish: Finish,
) -> None:
    network = routed("static")
    bits = [np.ones_like(router.prototypes.numpy()) for router in network.routers.values()]
    dense, closed = (network.with_prototypes(each).model for each in (bits, [0 * part for part in bits]))
    parts = tunable(dense.graph, single=False)
    bench = Bench(dense, parts, images, Target(), finish)
    both: dict[str, Choice] = {option: (option,) * len(parts.stages) for option in ("compact", "filled")}
    times = bench.measure(both)
    assert times["compact"] == times["filled"]
    assert bench.distinct(both) == ["compact"]
    assert made == ["routed"]
    bench = Bench(closed, parts, images, Target(), finish)
    bench.measure(both)
    assert bench.distinct(both) == ["compact", "filled"]
    assert made == ["routed"] * 3


@pytest.mark.parametrize(("name", "options"), [("residual", PICKINGS), ("routed", tuple(FORMS))])
def test_the_record_says_what_was_measured_of_each_stage(
    name: str,
    options: tuple[str, ...],
    captured: dict[str, Captured],
    routed: Callable[[str], Captured],
    images: npt.NDArray[np.uint8],
    finish: Finish,
) -> None:
    network = captured[name] if name in captured else routed("chain")
    dense = serialize(
        network.lowered(Masked())
    )  # as good as any other here: only how it is recorded is checked
    _, tuning = tune(network.model, images, Target(), finish, dense, single=False)
    assert options[0] in tuning.tried_ms
    assert 1 < len(tuning.tried_ms) <= len(options), "of options that come to one graph the first"
    assert tuning.tried_ms.keys() <= set(options)
    assert len(tuning.stages) > 1
    assert [layer for stage in tuning.stages for layer in stage.layers] == list(tuning.layers)
    for stage in tuning.stages:
        assert stage.tried_ms.keys() == tuning.tried_ms.keys()
        least = min(stage.tried_ms.values())
        assert stage.tried_ms[stage.chosen] * 0.99 <= least
        assert {tuning.layers[layer] for layer in stage.layers} == {stage.chosen}
