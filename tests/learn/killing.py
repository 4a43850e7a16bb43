"""Runs that are killed and called again: what they are compared with, and the two ways of killing them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from penstock.cli import main
from penstock.files import sha256
from penstock.learn.runs import FIGURES_FILE
from penstock.nn.run_folders import CONFIG_FILE

Kill = Callable[[Sequence[str], str, float], bool]
ROUNDS = 10  # of those that are killed again and again
KILLS = 12  # in each of these, at most


class Reference(NamedTuple):
    """A command, and what it gives if nobody kills it.

    Attributes:
        arguments: of ``penstock``, without ``--out``.
        lines: that it tells when its parts begin.
        result: file that it ends with.
        folder: with its whole result.
    """

    arguments: tuple[str, ...]
    lines: tuple[str, ...]
    result: str
    folder: Path

    def command(self, folder: Path) -> list[str]:
        """The same in another folder."""
        return [*self.arguments, "--out", str(folder)]

    def is_that_of(self, folder: Path) -> bool:
        """Whether another folder holds the same bytes."""
        names = (CONFIG_FILE, FIGURES_FILE, self.result)
        return all(sha256(folder / name) == sha256(self.folder / name) for name in names)


def killed_once(reference: Reference, kill: Kill, folder: Path, line: str) -> None:
    """Kill a run at a random moment after a line, call it again, and compare."""
    seconds = random.uniform(0.05, 0.8)
    kill(reference.command(folder), line, seconds)
    while (folder / reference.result).exists():  # a faster machine had ended by then
        shutil.rmtree(folder)
        seconds /= 2
        kill(reference.command(folder), line, seconds)
    assert main(reference.command(folder)) == 0
    assert reference.is_that_of(folder), f"killed {seconds} s after {line!r}"


def killed_again_and_again(reference: Reference, kill: Kill, folder: Path, seed: int) -> None:
    """Kill a run at several moments, which the seed tells, until it has ended or enough was done, and compare."""
    draw = random.Random(seed)
    moments: list[float] = []
    while not (folder / reference.result).exists() and len(moments) < KILLS:
        moments.append(draw.uniform(0.0, 1.5))
        kill(reference.command(folder), "", moments[-1])
    assert main(reference.command(folder)) == 0
    assert reference.is_that_of(folder), f"killed after {moments} s"
