"""Find the fastest choice for each stage by measuring: first the same for all, then one stage at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from penstock.errors import UnsupportedError
from penstock.export.autotune.stages import Choice

WORTH = 0.99  # a change must take at most this share of the time, or it was noise

Measure = Callable[[Mapping[str, Choice]], Mapping[str, float]]
"""Median milliseconds of choices by name, measured against each other; leaves out what cannot be done."""


def search(stages: int, options: tuple[str, ...], measure: Measure) -> tuple[Choice, dict[str, float]]:
    """The fastest choice found.

    Args:
        stages: their number.
        options: what there is to choose for each.
        measure: how fast choices are.

    Returns:
        the choice, and the milliseconds of the uniform ones that were measured first.

    Raises:
        UnsupportedError: none of the options can be done.
    """
    uniform = {option: (option,) * stages for option in options}
    times = dict(measure(uniform))
    if not times:
        raise UnsupportedError("none of the lowerings can do this network")
    best = min(times, key=lambda name: times[name])
    choice = uniform[best]
    for stage in range(stages if len(times) > 1 and stages > 1 else 0):
        tried = {option: (*choice[:stage], option, *choice[stage + 1 :]) for option in times}
        found = measure(tried)
        fastest = min(found, key=lambda name: found[name])
        if found[fastest] < WORTH * found[choice[stage]]:
            choice = tried[fastest]
    return choice, times
