"""Find the fastest choice for each stage by measuring: first the same for all, then one stage at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.errors import UnsupportedError
from penstock.export.autotune.stages import Choice

WORTH = 0.99  # a change must take at most this share of the time, or it was noise


class Contest(Protocol):
    """What measures choices against each other."""

    def measure(self, choices: Mapping[str, Choice]) -> dict[str, float]:
        """Median milliseconds of choices by name; leaves out what cannot be done."""

    def distinct(self, choices: Mapping[str, Choice]) -> list[str]:
        """Of choices just measured, the names of those that can be done; of several with one graph the first."""

    def keep(self, choice: Choice) -> None:
        """The next rounds change this choice, so that of all measured so far no other is needed any more."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        choice: the fastest.
        uniform: milliseconds of the options that can be done, the same in all stages; of those that come to one graph
            only the first, as they do then in every stage.
        rounds: of each stage, milliseconds of the options with the others as they were chosen until then; empty where
            there was one option only. With one stage, the uniform ones are its own.
    """

    choice: Choice
    uniform: dict[str, float]
    rounds: tuple[dict[str, float], ...]


def search(stages: int, options: tuple[str, ...], contest: Contest) -> Found:
    """The fastest choice, and all that was measured to find it.

    Args:
        stages: their number.
        options: what there is to choose for each.
        contest: says how fast choices are.

    Raises:
        UnsupportedError: none of the options can be done.
    """
    alike = {option: (option,) * stages for option in options}
    times = contest.measure(alike)
    uniform = {option: times[option] for option in contest.distinct(alike)}
    if not uniform:
        raise UnsupportedError("none of the lowerings can do this network")
    choice = alike[_fastest(uniform)]
    contest.keep(choice)
    if len(uniform) == 1:
        return Found(choice, uniform, ({},) * stages)
    if stages == 1:
        return Found(choice, uniform, (uniform,))
    rounds = []
    for stage in range(stages):
        tried = {option: (*choice[:stage], option, *choice[stage + 1 :]) for option in uniform}
        times = contest.measure(tried)
        rounds.append(times)
        fastest = _fastest(times)
        if times[fastest] < WORTH * times[choice[stage]]:
            choice = tried[fastest]
        contest.keep(choice)
    return Found(choice, uniform, tuple(rounds))


def _fastest(times: Mapping[str, float]) -> str:
    return min(times, key=lambda name: times[name])
