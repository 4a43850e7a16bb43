"""Figures of an evaluation, from the scores that its pieces of work left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.attacks.evaluation_config import OWN
from penstock.attacks.metrics import Scores, auroc_estimate, flags_at, rate_estimate
from penstock.detect import false_positive_interval, resplit_rates

RATES = (0.01, 0.05)
RESPLITS = 100
Arrays = dict[str, npt.NDArray[Any]]


def clean_figures(clean: dict[str, Arrays], name: str, seed: int) -> dict[str, Any]:
    """False positives of one detector on clean test images, by promised rate."""
    calibration, test = clean["calibration"][name], clean["test"][name]
    both = np.concatenate([calibration, test])
    return {
        f"{rate:g}": {
            "measured": float(flags_at(calibration, test, rate).mean()),
            "interval_95": _interval(flags_at(calibration, test, rate)),
            "interval_99": false_positive_interval(len(test), len(calibration), rate),
            "resplit_mean": float(resplit_rates(both, len(calibration), rate, RESPLITS, seed).mean()),
            "images": len(test),
            "calibration_images": len(calibration),
        }
        for rate in RATES
    }


def _interval(flags: npt.NDArray[np.bool_]) -> tuple[float, float]:
    found = rate_estimate(flags)
    return found.low, found.high


def attack_figures(
    found: Arrays, clean: dict[str, Arrays], names: Sequence[str], seed: int
) -> dict[str, Any]:
    """Figures of one attack or control.

    Detection counts images that were turned, and so does the noise of equal length: an image on which an attack failed
    may be as it was, and noise of no length says nothing. Where there is no right answer (other data sets), or the
    change is no attack on the answer, ``shown`` counts all images instead.
    """
    unknown = found["labels"] < 0
    turned = (found["predicted"] != found["labels"]) & ~unknown
    figures: dict[str, Any] = {
        "attacked": len(turned),
        "turned": int(turned.sum()),
        "l2_median": float(np.median(found["l2"][turned])) if turned.any() else None,
        "detectors": {
            name: {
                "turned": _detection(found[name][turned], clean, name, seed),
                "failed": _flag_rates(found[name][~turned], clean, name),
                "shown": _detection(found[name], clean, name, seed),
                "evasion": {
                    f"{rate:g}": asdict(
                        rate_estimate(turned & ~flags_at(clean["calibration"][name], found[name], rate))
                    )
                    for rate in RATES
                },
            }
            for name in names
        },
    }
    if "noise" in found:
        figures["noise"] = _flag_rates(found["noise"][turned], clean, OWN)
    figures["active_macs"] = {
        "mean": float(found["active_macs"].mean()),
        "largest": float(found["active_macs"].max()),
    }
    if "bound" in found:
        figures["active_macs"] |= {
            "bound": float(found["bound"][0]),
            "mean_before": float(found["before"].mean()),
        }
    return figures


def _detection(scores: Scores, clean: dict[str, Arrays], name: str, seed: int) -> dict[str, Any] | None:
    """AUROC and detection at each rate; none of no images."""
    if not len(scores):
        return None
    return {
        "auroc": asdict(auroc_estimate(clean["test"][name], scores, seed)),
        "tpr": _flag_rates(scores, clean, name),
    }


def _flag_rates(scores: Scores, clean: dict[str, Arrays], name: str) -> dict[str, Any] | None:
    """Share of flags at each rate; none of no images."""
    if not len(scores):
        return None
    return {
        f"{rate:g}": asdict(rate_estimate(flags_at(clean["calibration"][name], scores, rate)))
        for rate in RATES
    }
