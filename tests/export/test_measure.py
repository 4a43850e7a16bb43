"""Timing candidates in turn: hiccups do not show, paths that differ do, and time is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from penstock.export.autotune.measure import (
    LEAST_BATCHES,
    LEAST_PASSES,
    MOST_PASSES,
    interleaved,
)


class Clock:
    """A clock that only runs move on, so that figures are exact on a busy machine, too."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self, lengths: Iterator[float]) -> Callable[[], None]:
        """Something that takes these seconds, one after the other."""

        def taking() -> None:
            self.now += next(lengths)

        return taking

    def even(self, seconds: float, batches: int) -> list[Callable[[], None]]:
        """A candidate that always takes as long."""
        return [self.run(iter(lambda: seconds, None)) for _ in range(batches)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What `interleaved` reads."""
    clock = Clock()
    monkeypatch.setattr("penstock.export.autotune.measure.perf_counter", clock)
    return clock


def test_runs_that_were_disturbed_do_not_show(clock: Clock) -> None:
    def disturbed(batch: int) -> Iterator[float]:
        for turn in range(1000):
            yield 0.5 if turn % 7 in (batch % 7, (batch + 2) % 7, (batch + 3) % 7) else 0.001

    runs = {
        "disturbed": [clock.run(disturbed(batch)) for batch in range(32)],
        "quiet": clock.even(0.001, 32),
    }
    assert interleaved(runs, seconds=1000.0) == pytest.approx({"disturbed": 1.0, "quiet": 1.0})


def test_batches_that_cost_more_count_as_often_as_they_come(clock: Clock) -> None:
    cascade = [clock.even(0.009 if batch % 4 == 3 else 0.001, 1)[0] for batch in range(8)]
    found = interleaved({"cascade": cascade, "even": clock.even(0.002, 8)}, seconds=1.0)
    assert found == pytest.approx({"cascade": 3.0, "even": 2.0})


@pytest.mark.parametrize("candidates", [1, 17])
@pytest.mark.parametrize("milliseconds", [0.3, 40])
def test_where_time_is_short_fewer_batches_are_taken_rather_than_fewer_passes(
    clock: Clock, candidates: int, milliseconds: float
) -> None:
    made: Counter[int] = Counter()

    def counted(batch: int) -> Callable[[], None]:
        def run() -> None:
            clock.now += milliseconds / 1000
            made[batch] += 1

        return run

    runs = [counted(batch) for batch in range(64)]
    seconds = 1.5 * candidates
    interleaved({str(name): runs for name in range(candidates)}, seconds=seconds)
    assert all(times >= LEAST_PASSES * candidates for times in made.values())
    assert len(made) == (64 if milliseconds < 1 else 1500 // (40 * (LEAST_PASSES + 1)) + 1)
    assert clock.now < 1.3 * seconds


@pytest.mark.parametrize(("seconds", "passes"), [(0.0, LEAST_PASSES), (1e6, MOST_PASSES)])
def test_passes_are_never_fewer_than_a_median_needs_nor_more_than_help(
    clock: Clock, seconds: float, passes: int
) -> None:
    interleaved({"only": clock.even(1.0, 2 * LEAST_BATCHES)}, seconds=seconds)
    batches = LEAST_BATCHES if seconds == 0 else 2 * LEAST_BATCHES
    trial, uncounted = batches, 1
    assert clock.now == trial + passes * (uncounted + batches)


def test_runs_at_the_beginning_of_a_turn_do_not_count_while_the_other_s_threads_spin(clock: Clock) -> None:
    last, since = "", 0.0

    def run(name: str) -> None:
        nonlocal last, since
        if last != name:
            last, since = name, clock.now
        clock.now += 0.001 if clock.now > since + 0.04 else 0.002

    runs = {name: [partial(run, name)] * LEAST_BATCHES for name in ("one", "other")}
    assert interleaved(runs) == pytest.approx({"one": 2.0, "other": 2.0})
    assert interleaved(runs, settling=0.05) == pytest.approx({"one": 1.0, "other": 1.0})


def test_the_first_run_of_a_turn_does_not_count(clock: Clock) -> None:
    last = ""

    def run(name: str) -> None:
        nonlocal last
        clock.now += 0.001 if last == name else 0.1  # as if another's turn had emptied the caches
        last = name

    runs = {name: [partial(run, name)] * LEAST_BATCHES for name in ("one", "other")}
    assert interleaved(runs) == pytest.approx({"one": 1.0, "other": 1.0})
