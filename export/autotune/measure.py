"""Time candidates against each other: warm, interleaved, medians, so that a drifting machine hurts all alike."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from penstock.bundle import INPUT
from penstock.export.runtime import Graph


def measure(
    graphs: Mapping[str, Graph], images: npt.NDArray[np.uint8], rounds: int = 100
) -> dict[str, float]:
    """Median milliseconds for one image.

    Args:
        graphs: candidates by name.
        images: ``[N, C, H, W]`` uint8, taken in turn: paths differ, and so does their time.
        rounds: measurements of each candidate, after a tenth as many that are not counted.
    """
    inputs = [{INPUT: image[None].astype(np.float32) / np.float32(255)} for image in images]
    times: dict[str, list[float]] = {name: [] for name in graphs}
    warm_up = max(1, rounds // 10)
    for turn in range(warm_up + rounds):
        feed = inputs[turn % len(inputs)]
        for name, graph in graphs.items():
            start = time.perf_counter()
            graph.session.run(None, feed)
            if turn >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) * 1000 for name, values in times.items()}
