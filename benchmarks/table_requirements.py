"""What detection has to reach, beside what it does: a verdict on each, from ``results/detection.json``.

What flags cost is measured with the other latencies and has a table there (`table_speed.flags`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from table_detection import RATES, area_text, evaluations, inside, rate_text, unbiased
from table_text import markdown, measured

from penstock.attacks.evaluation_config import ADAPTIVE, OWN

AREAS = (
    *(("pgd", 8.0, 0.95), ("autoattack", 8.0, 0.95), ("pgd", 4.0, 0.90), ("autoattack", 4.0, 0.90)),
    *(("cw", 0.0, 0.85), ("deepfool", 0.0, 0.85)),
)
TITLES = {"autoattack": "ART's AutoAttack", "cw": "CW-L2", "deepfool": "DeepFool", "pgd": "PGD"}
BEATEN = ("max-softmax", "energy", "feature-mahalanobis")
NOISY = 8.0  # grey levels at which attacks are told from random signs
# Of 6,985 test images, what a threshold on all 1,997 calibration images would flag in 99 of 100 cases.
# Recipes that rank scores set theirs on half of them, whose rate scatters more: they are held to the same.
NARROW = {"0.01": (0.0043, 0.0169), "0.05": (0.0364, 0.0647)}
FOUND = 0.9  # of planted evasions, or an adaptive attack does not work
Row = tuple[str, str, str, bool | None]


def requirements(results: dict[str, Any]) -> list[str]:
    """A row for each network and requirement: what is wanted, what came out, and whether that is enough."""
    rows = [
        (name, *row)
        for name, entry, evaluation in _judged(results)
        for row in (
            *_false_alarms(entry),
            *_areas(evaluation),
            *_beaten(evaluation),
            _noise(evaluation),
            *_active(evaluation),
        )
    ]
    if not rows:
        return []
    words = {True: "yes", False: "**no**", None: "not measured"}
    lines = [[*row[:-1], words[row[-1]]] for row in rows]
    machines = [entry["machine"] for entry in results["networks"].values()]
    head = ("network", "what", "required", "measured", "met")
    return [*markdown(head, lines, words=3), "", measured(machines)]


def _judged(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Networks that were attacked as they are, those observed from outside left out."""
    for name, entry in results["networks"].items():
        if "attacks" in entry:
            ((shown, evaluation),) = evaluations({"networks": {name: {"attacks": entry["attacks"]}}})
            yield shown, entry, evaluation


def _false_alarms(entry: Mapping[str, Any]) -> Iterator[Row]:
    """Of every exported graph: how many are where they have to be."""
    graphs = entry["false_positives"]
    for rate in RATES:
        found = [row["rates"][rate] for row in graphs]
        low, high = NARROW[rate]
        for what, met in (
            ("in the 99 % interval", [inside(one) for one in found]),
            (f"{low:.1%} to {high:.1%}", [low <= one["measured"] <= high for one in found]),
            ("mean of re-splits within 0.1 points", [unbiased(one, rate) for one in found]),
        ):
            yield f"false alarms at {float(rate):.0%}", what, f"{sum(met)} of {len(met)} graphs", all(met)


def _areas(evaluation: Mapping[str, Any]) -> Iterator[Row]:
    for kind, eps, least in AREAS:
        title = f"AUROC, {TITLES.get(kind, kind)}" + (f" {eps:g}/255" if eps else "")
        found = _attack(evaluation, kind, eps)
        turned = None if found is None else found["detectors"][OWN]["turned"]
        if turned is None:
            yield title, f"{least:.2f} or more", "-", None
        else:
            area = turned["auroc"]
            yield title, f"{least:.2f} or more", area_text(area), area["value"] >= least


def _beaten(evaluation: Mapping[str, Any]) -> Iterator[Row]:
    """Ahead by more than chance: the interval of the difference is above 0."""
    ahead = (evaluation["means"] or {"ahead": {}})["ahead"]
    for other in BEATEN:
        title, required = f"mean AUROC less {other}'s", "above 0"
        if other in ahead:
            yield title, required, area_text(ahead[other]), ahead[other]["low"] > 0
        else:
            yield title, required, "-", None


def _noise(evaluation: Mapping[str, Any]) -> Row:
    """Fewer flags than PGD's by more than chance: the intervals are apart."""
    title, required = f"flagged of random signs, {NOISY:g}/255, at 5 %", "below PGD's"
    signs, pgd = (_attack(evaluation, kind, NOISY) for kind in ("signs", "pgd"))
    turned = None if pgd is None else pgd["detectors"][OWN]["turned"]
    if signs is None or turned is None:
        return title, required, "-", None
    noise, attack = signs["detectors"][OWN]["shown"]["tpr"]["0.05"], turned["tpr"]["0.05"]
    return title, required, f"{rate_text(noise)}, {rate_text(attack)}", noise["high"] < attack["low"]


def _active(evaluation: Mapping[str, Any]) -> Iterator[Row]:
    """Of evasions that are known to be there: how many each adaptive attack finds, within each bound."""
    required = f"{FOUND:.0%} or more"
    for kind in ADAPTIVE:
        planted = {
            eps: found
            for piece, found in evaluation.get("planted", {}).items()
            for name, _, eps in [piece.partition("-")]
            if name == kind
        }
        for eps, found in planted.items():
            title = f"of {found['images']} evasions planted within {eps}/255, {kind} finds"
            told = found if found["images"] else None  # perhaps none could be planted
            yield title, required, rate_text(told), told and told["value"] >= FOUND
        if not planted:
            yield f"of planted evasions, {kind} finds", required, "-", None


def _attack(evaluation: Mapping[str, Any], kind: str, eps: float) -> Mapping[str, Any] | None:
    attacks = evaluation["attacks"]
    return next((one for one in attacks if (one["attack"], one["eps"]) == (kind, eps)), None)
