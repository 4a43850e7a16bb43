"""What an evaluation of a detector found: areas under curves, scores, what is caught and what gets past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.attacks.evaluation_config import CONTROLS, OWN
from penstock.attacks.served import rows_as_served
from penstock.report.drawing import MUTED, SERIES, Drawing, percent, to_svg
from penstock.report.markup import Html, details, element, figure, join, table, text
from penstock.report.page import Section

RATE = "0.05"
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
BINS = 40
CURVES = 5  # attacks drawn at once: more cannot be told apart
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AttackScores:
    """The path detector's scores of one attack or control.

    Attributes:
        kind: what it was.
        eps: its bound in grey levels, 0 where there is none.
        scores: of images that count: misread now, or, of a control, all.
        noise: of the same images under normal noise as large as the change; empty of a control.
    """

    kind: str
    eps: float
    scores: Scores
    noise: Scores

    @property
    def title(self) -> str:
        """How pictures call it."""
        return f"{self.kind} {self.eps:g}/255" if self.eps else self.kind


@dataclass(frozen=True, eq=False)
class DetectionRun:
    """A finished evaluation.

    Attributes:
        result: what ``detection.json`` holds.
        calibration: scores of honest images that set thresholds.
        honest: scores of honest test images.
        attacks: scores of each piece of work, in order.
    """

    result: Mapping[str, Any]
    calibration: Scores
    honest: Scores
    attacks: Sequence[AttackScores]


def detection_section(run: DetectionRun) -> Section:
    """ROC curves, histograms, rates against eps, and all figures as tables."""
    found = run.result["clean"][OWN][RATE]
    low, high = found["interval_99"]
    lead = (
        f"At a promised 5%, {found['measured']:.1%} of {found['images']:,} clean test images are flagged; by chance "
        f"between {low:.1%} and {high:.1%} had to be expected. Only images that were read right and are misread after "
        "an attack count as attacks."
    )
    parts = [figure(roc_picture(run), _ROC), figure(score_picture(run), _SCORES)]
    if any(attack["eps"] for attack in run.result["attacks"]):
        parts.append(figure(eps_picture(run), _EPS))
    parts += [details("False alarms", _clean_table(run)), details("Every attack", _attack_table(run))]
    parts += [_bundle_table(bundle, run.result["detector"]) for bundle in run.result.get("bundles", ())]
    return Section("detection", "Detection", lead, join(parts))


_ROC = (
    "How many attacked images are flagged (upwards) where so many honest ones are (sideways), as the threshold moves; "
    "sideways in a logarithmic scale, because only few false alarms can be borne. Dotted: a coin. Of each attack the "
    "largest bound."
)
_SCORES = (
    "Scores of honest test images, of images turned by an attack, and of the same images under normal noise as large "
    "as the attack. The dashed line is the threshold for 5%. What lies beyond the axis counts in its last bar."
)
_EPS = (
    "Left: share of the turned images that are flagged at 5%. Right: share of all attacked images that end up misread "
    "and not flagged. Broken lines know the detector. Bars are 95 % intervals."
)


def roc(honest: Scores, attacked: Scores) -> tuple[Scores, Scores]:
    """False and true positive rates, ascending, at every threshold that changes one of them."""
    thresholds = np.unique(np.concatenate([honest, attacked]))[::-1]
    false, true = (
        1 - np.searchsorted(np.sort(scores), thresholds, side="left") / len(scores)
        for scores in (honest, attacked)
    )
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def roc_picture(run: DetectionRun) -> Html:
    """A curve for each attack at its largest bound."""
    shown = _shown(run)
    smallest = 1 / (2 * len(run.honest))
    with Drawing(3.6, 6.4) as drawing:
        axes = drawing.subplots()
        axes.plot(*[np.geomspace(smallest, 1, 50)] * 2, color=MUTED, linestyle=":", linewidth=0.9)
        for place, attack in enumerate(shown):
            false, true = roc(run.honest, attack.scores)
            style = {"color": SERIES[place % len(SERIES)], "linestyle": DASHES[place % len(DASHES)]}
            axes.step(np.maximum(false, smallest), true, where="post", label=attack.title, **style)
        axes.set_xscale("log")
        axes.set_xlim(smallest, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.set_xlabel("honest images flagged")
        percent(axes, "attacked images flagged")
        _legend(axes)
        return to_svg(drawing, f"ROC curves of {', '.join(attack.title for attack in shown) or 'no attack'}.")


def score_picture(run: DetectionRun) -> Html:
    """A panel for each attack at its largest bound."""
    shown = _shown(run)[:3]
    threshold = _threshold(run.calibration)
    with Drawing(2.8) as drawing:
        panels = np.atleast_1d(drawing.subplots(1, max(1, len(shown)), sharey=True))
        tops = [float(np.quantile(attack.scores, 0.98)) for attack in shown]
        top = max([float(np.quantile(run.honest, 0.999)), threshold, *tops]) + 0.5
        edges = np.linspace(np.quantile(run.honest, 0.001), top, BINS)
        for axes, attack in zip(panels, shown, strict=False):
            parts = (("honest", run.honest), (attack.title, attack.scores), ("noise as large", attack.noise))
            for colour, (label, scores) in zip(SERIES, parts, strict=False):
                if len(scores):
                    heights = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)[0] / len(scores)
                    axes.stairs(heights, edges, color=colour, label=label, fill=label == "honest", alpha=0.8)
            axes.axvline(threshold, color=MUTED, linestyle="--", linewidth=0.9)
            axes.set_xlabel("anomaly score")
            _legend(axes)
        panels[0].set_ylabel("share of images")
        titles = ", ".join(attack.title for attack in shown) or "no attack"
        return to_svg(drawing, f"Histograms of scores of honest images and of {titles}.")


def eps_picture(run: DetectionRun) -> Html:
    """Detection and evasion against the bound."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for attack in run.result["attacks"]:
        if attack["eps"] and attack["attack"] not in CONTROLS:
            rows.setdefault(attack["attack"], []).append(attack)
    with Drawing(3.4) as drawing:
        caught, past = drawing.subplots(1, 2)
        for place, (kind, attacks) in enumerate(rows.items()):
            style = {"color": SERIES[place % len(SERIES)], "linestyle": DASHES[place % len(DASHES)]}
            own = [attack["detectors"][OWN] for attack in attacks]
            turned = [
                (attack["eps"], found["turned"]["tpr"][RATE])
                for attack, found in zip(attacks, own, strict=True)
                if found["turned"] is not None
            ]
            _rates(caught, turned, kind, style)
            evaded = [(a["eps"], found["evasion"][RATE]) for a, found in zip(attacks, own, strict=True)]
            _rates(past, evaded, kind, style)
        for axes, label in ((caught, "turned images flagged"), (past, "misread and not flagged")):
            axes.set_xlabel("eps, grey levels of 255")
            percent(axes, label)
            _legend(axes)
        return to_svg(drawing, f"Detection and evasion against eps of {', '.join(rows)}.")


def _rates(
    axes: Any, rates: Sequence[tuple[float, Mapping[str, float]]], label: str, style: dict[str, Any]
) -> None:
    eps = [bound for bound, _ in rates]
    values = np.array([rate["value"] for _, rate in rates])
    spans = [
        [rate["value"] - rate["low"] for _, rate in rates],
        [rate["high"] - rate["value"] for _, rate in rates],
    ]
    axes.errorbar(
        eps, values, yerr=np.maximum(spans, 0), label=label, marker="o", markersize=3, capsize=2, **style
    )


def _shown(run: DetectionRun) -> list[AttackScores]:
    """Of each attack that turned something the largest bound; controls are left to the table."""
    largest: dict[str, AttackScores] = {}
    for attack in run.attacks:
        there = attack.kind not in (*CONTROLS, "inflation") and len(attack.scores) > 0
        if there and (attack.kind not in largest or attack.eps >= largest[attack.kind].eps):
            largest[attack.kind] = attack
    return list(largest.values())[: CURVES + 2]


def _threshold(calibration: Scores) -> float:
    from penstock.detect import conformal_threshold

    return conformal_threshold(calibration, float(RATE))


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=8, columnspacing=1.4)


def _clean_table(run: DetectionRun) -> Html:
    rows = [
        [
            name,
            f"{found['images']:,}",
            f"{float(rate):.0%}",
            f"{found['measured']:.2%}",
            f"{found['interval_99'][0]:.1%} to {found['interval_99'][1]:.1%}",
            f"{found['resplit_mean']:.2%}",
        ]
        for name, rates in run.result["clean"].items()
        for rate, found in rates.items()
    ]
    headings = ("score", "images", "promised", "measured", "expected in 99 of 100 cases", "mean of re-splits")
    return _table(headings, rows, "What is flagged of clean test images")


def _attack_table(run: DetectionRun) -> Html:
    rows = []
    for attack in run.result["attacks"]:
        control = attack["attack"] in CONTROLS
        for name, found in attack["detectors"].items():
            part = found["shown" if control else "turned"]
            if part is not None:
                failed = None if control else found["failed"]
                area = part["auroc"]
                rows.append(
                    [
                        _title(attack),
                        str(attack["attacked"]),
                        name,
                        "-" if control else f"{attack['turned'] / attack['attacked']:.1%}",
                        f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})",
                        *map(_rate, part["tpr"].values()),
                        _rate(failed and failed[RATE]),
                        "-" if control else _rate(found["evasion"][RATE]),
                    ]
                )
    headings = (
        *("attack", "images", "score", "misread", "AUROC", "flagged at 1%", "flagged at 5%"),
        *("flagged at 5% where the attack failed", "evades at 5%"),
    )
    return _table(headings, rows, "Every attack and control, every score, with 95 % intervals")


def _bundle_table(bundle: Mapping[str, Any], detector: str) -> Html:
    rows = [[_title(attack), *map(_rate, rates)] for attack, rates in rows_as_served(bundle, detector)]
    clean = bundle["clean"]["as_served"]
    title = f"{bundle['name']}, {bundle['lowering']}, {bundle['precision']}"
    caption = (
        f"As it serves, with 95 % intervals: {_rate(clean)} of clean images are flagged where {clean['fpr']:.0%} is "
        "promised"
    )
    return details(title, _table(("attack", "flagged", "noise as large", "evades"), rows, caption))


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Html:
    if not rows:
        return element("p", text("Nothing was measured."))
    return table(headings, (tuple(map(text, row)) for row in rows), caption)


def _rate(found: Mapping[str, float] | None) -> str:
    """A share with its interval, where there is one."""
    return "-" if found is None else f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def _title(attack: Mapping[str, Any]) -> str:
    return f"{attack['attack']} {attack['eps']:g}/255" if attack["eps"] else str(attack["attack"])
