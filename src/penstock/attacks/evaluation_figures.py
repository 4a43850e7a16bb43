"""Figures of an evaluation, from the scores that its pieces of work left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.attacks.baselines import evenly
from penstock.attacks.evaluation_config import ATTACKS, OWN, UNAWARE, named
from penstock.attacks.metrics import (
    Scores,
    auroc,
    auroc_estimate,
    auroc_rounds,
    estimate,
    flags_at,
    rate_estimate,
)
from penstock.detect import false_positive_interval, resplit_rates

RATES = (0.01, 0.05)
RESPLITS = 100
BUDGET = 0.99  # of honest images cost no more than a budget that a server might set
NEARLY = 0.999  # of the most that an image can cost counts as that, whatever was rounded
FEWEST = 10  # turned images that an attack must have for its area to count in a mean: with fewer it is mostly chance
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
            if name in found  # who aims at one detector is not judged by others
        },
    }
    if "noise" in found:
        figures["noise"] = _flag_rates(found["noise"][turned], clean, OWN)
    figures["active_macs"] = {
        "mean": float(found["active_macs"].mean()),
        "largest": float(found["active_macs"].max()),
    }
    if "bound" in found:
        figures["active_macs"] |= _cost_figures(found, clean["test"]["active_macs"])
    return figures


def _cost_figures(found: Arrays, honest: npt.NDArray[np.float32]) -> dict[str, Any]:
    """What inflation came to, beside the budget that most honest images keep to, where the bound leaves one."""
    bound, budget = float(found["bound"][0]), float(np.quantile(honest, BUDGET))
    return {
        "bound": bound,
        "mean_before": float(found["before"].mean()),
        "over_budget": asdict(rate_estimate(found["active_macs"] > budget))
        if budget < NEARLY * bound
        else None,
        "at_bound": {
            when: asdict(rate_estimate(costs >= NEARLY * bound))
            for when, costs in (("before", found["before"]), ("after", found["active_macs"]))
        },
    }


def any_figures(founds: Mapping[tuple[str, float], Arrays], clean: dict[str, Arrays]) -> list[dict[str, Any]]:
    """By bound, what an attacker reaches who tries all attacks, also within smaller bounds, and keeps what works.

    Counted are the images that all of them were tried on: each attacks the first so many.
    """
    attacks = {piece: found for piece, found in founds.items() if piece[0] in ATTACKS and piece[1]}
    figures = []
    for eps in sorted({eps for _, eps in attacks}):
        tried = {piece: found for piece, found in attacks.items() if piece[1] <= eps}
        count = min(len(found["labels"]) for found in tried.values())
        evasion = {}
        for rate in RATES:
            evaded = np.zeros(count, np.bool_)
            for found in tried.values():
                turned = found["predicted"] != found["labels"]
                evaded |= (turned & ~flags_at(clean["calibration"][OWN], found[OWN], rate))[:count]
            evasion[f"{rate:g}"] = asdict(rate_estimate(evaded))
        figures.append(
            {
                "eps": eps,
                "attacks": sorted({kind for kind, _ in tried}),
                "attacked": count,
                "evasion": evasion,
            }
        )
    return figures


def mean_figures(
    founds: Mapping[tuple[str, float], Arrays], clean: dict[str, Arrays], names: Sequence[str], seed: int
) -> dict[str, Any] | None:
    """AUROC of each score, mean over the attacks that do not know the detector, and how far it is ahead of others.

    Returns:
        ``attacks``, those that turned `FEWEST` images or more; ``auroc`` by name; and ``ahead`` by the other's name,
        the detector's mean less the other's, on the same images; or nothing, where there is no such attack.
    """
    attacks = {
        named(*piece): (found, found["predicted"] != found["labels"])
        for piece, found in founds.items()
        if piece[0] in UNAWARE
    }
    attacks = {
        attack: (found, turned) for attack, (found, turned) in attacks.items() if turned.sum() >= FEWEST
    }
    if not attacks:
        return None

    def mean(name: str, honest: Scores) -> tuple[float, Scores]:
        """The mean of AUROCs, and means that a bootstrap drew."""
        shown = [(found[name], turned) for found, turned in attacks.values()]
        rounds = auroc_rounds(honest, shown, seed)
        # Rounds that drew an image that was turned: the same ones for every score.
        some = ~np.isnan(rounds).all(axis=1)
        value = float(np.mean([auroc(honest, scores[turned]) for scores, turned in shown]))
        return value, np.nanmean(rounds[some], axis=1)

    honest = {name: clean["test"][name] for name in names}
    means = {name: mean(name, honest[name]) for name in names}
    ahead = {}
    for name in names:
        if name != OWN:
            # A baseline that judged some of the honest images only, evenly spread, is compared on those.
            count, judged = len(honest[OWN]), len(honest[name])
            own = means[OWN] if judged == count else mean(OWN, honest[OWN][evenly(count, judged)])
            ahead[name] = asdict(estimate(own[0] - means[name][0], own[1] - means[name][1]))
    return {
        "attacks": list(attacks),
        "auroc": {name: asdict(estimate(*means[name])) for name in names},
        "ahead": ahead,
    }


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
