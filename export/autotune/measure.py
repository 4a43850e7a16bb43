"""Time graphs against each other: warm, interleaved, medians, so that a drifting machine hurts all alike.

Paths differ from image to image, and so does their time: of a cascade the median image costs what the small member
costs, whatever the large one does. So the median is taken over the runs of each batch, and the mean over the batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from penstock.bundle import INPUT
from penstock.export.autotune.engines import Runnable

ROUNDS = 100
SECONDS = 1.0  # of one measurement, if that many rounds take longer
LEAST = 7  # rounds, however long they take


def measure(
    graphs: Mapping[str, Runnable],
    images: npt.NDArray[np.uint8],
    *,
    batch: int = 1,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> dict[str, float]:
    """Milliseconds for one batch: median over its runs, mean over the batches.

    Args:
        graphs: candidates by name.
        images: ``[N, C, H, W]`` uint8, taken in turn, each at least once.
        batch: images in each; a graph that takes one at a time runs as often.
        rounds: measurements of each candidate, after a tenth as many that are not counted.
        seconds: stop earlier than that many rounds when so much time has gone, all candidates together.
    """
    batches = feeds(images, batch)
    runs = {name: [partial(graph.run_batch, feed) for feed in batches] for name, graph in graphs.items()}
    return interleaved(runs, rounds=rounds, seconds=seconds)


def interleaved(
    runs: Mapping[str, Sequence[Callable[[], object]]], *, rounds: int = ROUNDS, seconds: float = SECONDS
) -> dict[str, float]:
    """Milliseconds of one run: median over the repetitions of each, mean over all of a candidate.

    Args:
        runs: by candidate, what is to be timed, as many for each; all are taken in turn.
        rounds: measurements of each candidate, after a tenth as many that are not counted.
        seconds: stop earlier than that many rounds when so much time has gone, all candidates together.
    """
    count = min(map(len, runs.values()))
    times: dict[str, list[list[float]]] = {name: [[] for _ in range(count)] for name in runs}
    for own in runs.values():
        for run in own[: max(1, rounds // 10)]:
            run()
    start = time.perf_counter()
    for turn in range(rounds):
        for name, own in runs.items():
            begin = time.perf_counter()
            own[turn % count]()
            times[name][turn % count].append(time.perf_counter() - begin)
        if turn + 1 >= max(LEAST, count) and time.perf_counter() - start > seconds:
            break
    return {
        name: float(np.mean([np.median(each) for each in of_batches if each])) * 1000
        for name, of_batches in times.items()
    }


def feeds(images: npt.NDArray[np.uint8], batch: int) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Inputs that hold the images in turn, from the beginning again where there are too few."""
    count = -(-len(images) // batch)
    floats = np.resize(images, (count * batch, *images.shape[1:])).astype(np.float32) / np.float32(255)
    return [{INPUT: floats[start : start + batch]} for start in range(0, len(floats), batch)]
