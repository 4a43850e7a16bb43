"""Time graphs against each other: warm, interleaved, medians, so that a drifting machine hurts all alike.

Candidates take turns, each for one pass over all batches, as a server asks one network many times in a row. If they
took turns at every batch, each would find its weights driven out of the caches by the others'. That hurts small
candidates most, whose weights would have stayed: an int8 ResNet-18 with prototypes at a quarter of its filters was 2.02
times as fast as dense in turns of one batch, 2.22 times in turns of eight.

With several threads a turn begins with runs that do not count for as long as the last candidate's threads may still
spin on the cores, waiting for work that will not come. That hurts short turns most: on two threads VGG-16's cascade
took 1.33 ms instead of 0.93, the dense network 2.67 instead of 2.36.

Paths differ from image to image, and so does their time: of a cascade the median image costs what the small member
costs, whatever the large one does. So the median is taken over the runs of each batch, and the mean over the batches.
A median over few runs is none: where time is short, fewer batches are taken rather than fewer runs of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from time import perf_counter

import numpy as np
import numpy.typing as npt

from penstock.bundle import INPUT
from penstock.export.autotune.engines import Runnable

SECONDS = 2.0  # of one measurement
LEAST_PASSES = 7  # over all batches: what happens in three of them does not show
MOST_PASSES = 15
LEAST_BATCHES = 4
SETTLING = (
    0.1  # seconds at the beginning of a turn: ONNX Runtime's idle threads spin for up to a half of that
)

Run = Callable[[], object]


def measure(
    graphs: Mapping[str, Runnable],
    images: npt.NDArray[np.uint8],
    *,
    batch: int = 1,
    threads: int = 1,
    seconds: float = SECONDS,
) -> dict[str, float]:
    """Milliseconds for one batch: median over its runs, mean over the batches.

    Args:
        graphs: candidates by name.
        images: ``[N, C, H, W]`` uint8; where they cost too much time, the first of them.
        batch: images in each; a graph that takes one at a time runs as often.
        threads: of each graph.
        seconds: that all of it may take, see `interleaved`.
    """
    batches = feeds(images, batch)
    runs = {name: [partial(graph.run_batch, feed) for feed in batches] for name, graph in graphs.items()}
    return interleaved(runs, seconds=seconds, settling=SETTLING if threads > 1 else 0.0)


def interleaved(
    runs: Mapping[str, Sequence[Run]], *, seconds: float = SECONDS, settling: float = 0.0
) -> dict[str, float]:
    """Milliseconds of one run: median over the repetitions of each, mean over all of a candidate.

    In every pass each candidate in turn takes all batches, after some that do not count. How many batches there are is
    found by a trial, which does not count either: as many as `LEAST_PASSES` can afford. Passes go on while there is
    time, to `MOST_PASSES`.

    Args:
        runs: by candidate, what is to be timed: one run for each batch, as many for each candidate.
        seconds: that all of it may take, all candidates together; `LEAST_PASSES` over `LEAST_BATCHES` are made however
            long they take.
        settling: seconds at the beginning of each turn in which runs do not count; one never does.
    """
    start = perf_counter()
    count = _affordable(list(zip(*runs.values(), strict=True)), start + seconds / (LEAST_PASSES + 1))
    passes: list[list[list[float]]] = []  # [passes, candidates, batches], in seconds
    while len(passes) < LEAST_PASSES or (len(passes) < MOST_PASSES and perf_counter() < start + seconds):
        passes.append([_timed(own[:count], settling) for own in runs.values()])
    of_batches = np.median(passes, axis=0)
    return dict(zip(runs, (of_batches.mean(axis=1) * 1000).tolist(), strict=True))


def _affordable(turns: Sequence[Sequence[Run]], end: float) -> int:
    """How many batches all candidates can take until time is up."""
    for count, turn in enumerate(turns, 1):
        for run in turn:
            run()
        if count >= LEAST_BATCHES and perf_counter() > end:
            return count
    return len(turns)


def _timed(runs: Sequence[Run], settling: float) -> list[float]:
    """Seconds of each run, after some that do not count, the last first, which in the pass is the longest ago."""
    end = perf_counter() + settling
    for run in cycle(reversed(runs)):
        run()
        if perf_counter() >= end:
            break
    times = []
    for run in runs:
        begin = perf_counter()
        run()
        times.append(perf_counter() - begin)
    return times


def feeds(images: npt.NDArray[np.uint8], batch: int) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Inputs that hold the images in turn, from the beginning again where there are too few."""
    count = -(-len(images) // batch)
    floats = np.resize(images, (count * batch, *images.shape[1:])).astype(np.float32) / np.float32(255)
    return [{INPUT: floats[start : start + batch]} for start in range(0, len(floats), batch)]
