"""All pieces of work of an evaluation, each one file, in the order in which they are best worked on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from penstock.attacks.evaluation_bench import Bench, attack_file, kept
from penstock.attacks.evaluation_config import ADAPTIVE, EvaluationConfig
from penstock.attacks.evaluation_figures import Arrays
from penstock.attacks.evaluation_work import Subject, active_test, do
from penstock.data import ImageSet

Work = dict[Path, Callable[[], Arrays]]


def pieces(
    subject: Subject, bench: Bench, config: EvaluationConfig, parts: Mapping[str, ImageSet], out: Path
) -> Work:
    """What is to be made, by file.

    The first piece fits the baselines. Adaptive attacks, which come next, need none, the others only when they judge
    what they have changed; the longest go first, so that processes end together, and the clean test images last.

    Args:
        subject: what is attacked.
        bench: what judges.
        config: what to do.
        parts: clean images, ``calibration`` and ``test``.
        out: run folder.
    """
    compared = {
        compared_file(out, name): partial(_compared, bench, part)
        for name, part in parts.items()
        if config.baselines
    }
    work: Work = dict(list(compared.items())[:1])
    if set(ADAPTIVE).intersection(config.kinds):
        work[planted_file(out)] = partial(active_test, subject, config)
    for piece in config.order:
        work[attack_file(out, *piece)] = partial(_attack, subject, bench, config, out, *piece)
    return work | compared  # what is there already keeps its place


def compared_file(run: Path, part: str) -> Path:
    """Where a run keeps the baselines' scores of clean images."""
    return run / f"compared-{part}.npz"


def planted_file(run: Path) -> Path:
    """Where a run keeps which planted evasions were found."""
    return run / "planted.npz"


def _compared(bench: Bench, part: ImageSet) -> Arrays:
    return bench.compare(part.images)


def _attack(
    subject: Subject, bench: Bench, config: EvaluationConfig, out: Path, kind: str, eps: float
) -> Arrays:
    """One attack or control; an adaptive attack goes on from what it came to within the next smaller bound."""
    smaller = config.bound_before(kind, eps)
    known = None
    if smaller is not None:
        make = partial(_attack, subject, bench, config, out, kind, smaller)
        known = kept(attack_file(out, kind, smaller), make)
    return do(subject, bench, kind, eps, config, known)
