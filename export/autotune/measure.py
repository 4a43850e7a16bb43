"""Time graphs against each other: warm, interleaved, medians, so that a drifting machine hurts all alike.

Paths differ from image to image, and so does their time: of a cascade the median image costs what the small member
costs, whatever the large one does. So the median is taken over the runs of each batch, and the mean over the batches.
A median over few runs is none: where time is short, fewer batches are taken rather than fewer runs of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt

from penstock.bundle import INPUT
from penstock.export.autotune.engines import Runnable

SECONDS = 2.0  # of one measurement
WARM = 2  # batches that all candidates take once before anything counts
LEAST_PASSES = 7  # over all batches: what happens in three of them does not show
MOST_PASSES = 15
LEAST_BATCHES = 4

Run = Callable[[], object]


def measure(
    graphs: Mapping[str, Runnable],
    images: npt.NDArray[np.uint8],
    *,
    batch: int = 1,
    seconds: float = SECONDS,
) -> dict[str, float]:
    """Milliseconds for one batch: median over its runs, mean over the batches.

    Args:
        graphs: candidates by name.
        images: ``[N, C, H, W]`` uint8; where they cost too much time, the first of them.
        batch: images in each; a graph that takes one at a time runs as often.
        seconds: that all of it may take, see `interleaved`.
    """
    batches = feeds(images, batch)
    runs = {name: [partial(graph.run_batch, feed) for feed in batches] for name, graph in graphs.items()}
    return interleaved(runs, seconds=seconds)


def interleaved(runs: Mapping[str, Sequence[Run]], *, seconds: float = SECONDS) -> dict[str, float]:
    """Milliseconds of one run: median over the repetitions of each, mean over all of a candidate.

    In every pass the candidates take turns at each batch. The first pass finds how many batches `LEAST_PASSES` can
    afford, and all others repeat just these; passes go on while there is time, to `MOST_PASSES`.

    Args:
        runs: by candidate, what is to be timed: one run for each batch, as many for each candidate.
        seconds: that all of it may take, all candidates together; `LEAST_PASSES` over `LEAST_BATCHES` are made however
            long they take.
    """
    turns = list(zip(*runs.values(), strict=True))
    for turn in turns[:WARM]:
        _timed(turn)
    start = perf_counter()
    passes = [_first_pass(turns, start + seconds / LEAST_PASSES)]
    affordable = turns[: len(passes[0])]
    while len(passes) < LEAST_PASSES or (len(passes) < MOST_PASSES and perf_counter() < start + seconds):
        passes.append([_timed(turn) for turn in affordable])
    of_batches = np.median(passes, axis=0)  # [batches, candidates]
    return dict(zip(runs, (of_batches.mean(axis=0) * 1000).tolist(), strict=True))


def _first_pass(turns: Sequence[Sequence[Run]], end: float) -> list[list[float]]:
    """Seconds of each run, batch by batch until time is up."""
    times: list[list[float]] = []
    for turn in turns:
        times.append(_timed(turn))
        if len(times) >= LEAST_BATCHES and perf_counter() > end:
            break
    return times


def _timed(turn: Sequence[Run]) -> list[float]:
    """Seconds that each candidate takes for one batch."""
    times = []
    for run in turn:
        begin = perf_counter()
        run()
        times.append(perf_counter() - begin)
    return times


def feeds(images: npt.NDArray[np.uint8], batch: int) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Inputs that hold the images in turn, from the beginning again where there are too few."""
    count = -(-len(images) // batch)
    floats = np.resize(images, (count * batch, *images.shape[1:])).astype(np.float32) / np.float32(255)
    return [{INPUT: floats[start : start + batch]} for start in range(0, len(floats), batch)]
