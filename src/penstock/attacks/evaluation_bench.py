"""Everything that scores images in an evaluation, and what a killed one keeps of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.attacks import baselines
from penstock.attacks.classifier import Images
from penstock.attacks.evaluation_config import OWN, named
from penstock.attacks.evaluation_figures import Arrays
from penstock.attacks.served import Served
from penstock.detect import FamilyScore
from penstock.files import work_locked, write_atomic
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.detecting import features as features_of
from penstock.nn.inference import Answers, answer

TIMED = 100  # images


@dataclass(frozen=True, eq=False)
class Bench:
    """Everything that scores images.

    Attributes:
        checkpoint: the network under attack, with its detector.
        detector: the score that is evaluated.
        fit: gives the baselines by name; asked when the first image is to be judged by them, if one ever is.
        served: bundles of the same network.
    """

    checkpoint: Checkpoint
    detector: FamilyScore
    fit: Callable[[], dict[str, baselines.Score]]
    served: Sequence[Served] = ()

    @cached_property
    def baselines(self) -> dict[str, baselines.Score]:
        """By name, fitted."""
        return self.fit()

    def judge(self, images: Images) -> Arrays:
        """What `judge_alone` says of images in 0..1, and scores ``[N]`` of baselines by name."""
        with baselines.entering_last(self.checkpoint.network) as features:
            seen = self._answers(images)
        reading = baselines.Reading(images, seen.logits, np.concatenate(features))
        compared = {name: score(reading) for name, score in self.baselines.items()}
        return self._judged(images, seen) | compared

    def judge_alone(self, images: Images) -> Arrays:
        """The detector's scores ``[N]``, ``predicted`` and ``active_macs`` ``[N]`` and packed ``bits``.

        What bundles say stands beside them, as `penstock.attacks.served` names it.
        """
        return self._judged(images, self._answers(images))

    def compare(self, images: npt.NDArray[np.uint8]) -> Arrays:
        """Scores of baselines by name for clean images, the dearest's of fewer: `baselines.compare`."""
        return dict(baselines.compare(self.baselines, baselines.read(self.checkpoint.network, images)))

    def _answers(self, images: Images) -> Answers:
        return answer(self.checkpoint.network, images * np.float32(255))

    def _judged(self, images: Images, seen: Answers) -> Arrays:
        watched = features_of(self.checkpoint.network, seen)
        judged: Arrays = {
            "predicted": seen.predicted,
            "bits": np.packbits(watched.bits, axis=1),
            "active_macs": seen.active_macs,
            OWN: self.detector.score(watched).astype(np.float64),
        }
        for place, bundle in enumerate(self.served):
            judged |= bundle.judge(images, place)
        return judged

    def time(self, before: Images, after: Images) -> Arrays:
        """Milliseconds that bundles take for images one by one, ``[TIMED]`` at most, as they were and as they are now.

        Each image has its turn in both forms at once, so that a machine that gets busy slows both.
        """
        count = min(TIMED, len(before))
        taken: Arrays = {}
        for place, bundle in enumerate(self.served):
            bundle.run(before[:1])  # the first run prepares
            times = np.array(
                [
                    [_milliseconds(bundle, images[at : at + 1]) for images in (before, after)]
                    for at in range(count)
                ]
            )
            taken |= {f"served{place}.ms_before": times[:, 0], f"served{place}.ms_after": times[:, 1]}
        return taken


def _milliseconds(bundle: Served, images: Images) -> float:
    start = perf_counter()
    bundle.run(images)
    return 1000 * (perf_counter() - start)


def attack_file(run: Path, kind: str, eps: float) -> Path:
    """Where a run keeps what an attack or control came to."""
    return run / f"attack-{named(kind, eps)}.npz"


def kept(file: Path, make: Callable[[], Arrays]) -> Arrays:
    """The arrays in a file ``.npz``, which are made and written first if it is not there.

    If another process is making them, it is waited for.
    """
    make_once(file, make, wait=True)
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def make_once(file: Path, make: Callable[[], Arrays], *, wait: bool) -> None:
    """Make the arrays of a file, unless it is there, or, with ``wait=False``, another process is at it."""
    if file.is_file():
        return
    with work_locked(file, wait=wait) as free:
        if free and not file.is_file():  # another process may have made it meanwhile
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **make())
            write_atomic(file, buffer.getvalue())


def written(file: Path) -> int | None:
    """When a file was written, as `told_once` wants it; ``None`` where there is none."""
    return file.stat().st_mtime_ns if file.is_file() else None


def told_once(file: Path, make: Callable[[], dict[str, Any]], before: int | None) -> dict[str, Any]:
    """Write what is made of all pieces as JSON, unless another process has done so since this one began.

    A file from before may be of older code, and is written anew.

    Args:
        file: where it goes.
        make: gives it; asked by one process, while others wait.
        before: what `written` said when this process began.
    """
    with work_locked(file):
        if written(file) == before:
            write_atomic(file, json.dumps(make(), indent=2) + "\n")
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return told
