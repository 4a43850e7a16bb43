"""Everything that scores images in an evaluation, and what a killed one keeps of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from penstock.attacks import baselines
from penstock.attacks.classifier import Images
from penstock.attacks.evaluation_config import OWN
from penstock.attacks.evaluation_figures import Arrays
from penstock.attacks.served import Served
from penstock.detect import FamilyScore
from penstock.files import write_atomic
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.detecting import features
from penstock.nn.inference import answer


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
        judged = self.judge_alone(images)
        if self.baselines:
            seen = baselines.read(self.checkpoint.network, images)
            judged |= {name: score(seen) for name, score in self.baselines.items()}
        return judged

    def judge_alone(self, images: Images) -> Arrays:
        """The detector's scores ``[N]``, ``predicted`` and ``active_macs`` ``[N]`` and packed ``bits``.

        What bundles say stands beside them, as `penstock.attacks.served` names it.
        """
        seen = answer(self.checkpoint.network, images * np.float32(255))
        watched = features(self.checkpoint.network, seen)
        judged: Arrays = {
            "predicted": seen.predicted,
            "bits": np.packbits(watched.bits, axis=1),
            "active_macs": seen.active_macs,
            OWN: self.detector.score(watched).astype(np.float64),
        }
        for place, bundle in enumerate(self.served):
            judged |= bundle.judge(images, place)
        return judged


def kept(file: Path, make: Callable[[], Arrays]) -> Arrays:
    """The arrays in a file, which are made and written first if it is not there."""
    if not file.is_file():
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **make())
        write_atomic(file, buffer.getvalue())
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}
