"""Time graphs against each other: warm, interleaved, medians, so that a drifting machine hurts all alike.

Paths differ from image to image, and so does their time: of a cascade the median image costs what the small member
costs, whatever the large one does. So the median is taken over the runs of each batch, and the mean over the batches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

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
    batches = _batches(images, batch)
    times: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in graphs}
    for graph in graphs.values():
        for feed in batches[: max(1, rounds // 10)]:
            graph.run_batch(feed)
    start = time.perf_counter()
    for turn in range(rounds):
        place = turn % len(batches)
        for name, graph in graphs.items():
            begin = time.perf_counter()
            graph.run_batch(batches[place])
            times[name][place].append(time.perf_counter() - begin)
        if turn + 1 >= max(LEAST, len(batches)) and time.perf_counter() - start > seconds:
            break
    return {
        name: float(np.mean([np.median(each) for each in of_batches if each])) * 1000
        for name, of_batches in times.items()
    }


def _batches(images: npt.NDArray[np.uint8], batch: int) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Inputs that hold the images in turn, from the beginning again where there are too few."""
    count = -(-len(images) // batch)
    floats = np.resize(images, (count * batch, *images.shape[1:])).astype(np.float32) / np.float32(255)
    return [{INPUT: floats[start : start + batch]} for start in range(0, len(floats), batch)]
