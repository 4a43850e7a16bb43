"""The tables of ``results/detection.json``: false positives of exported graphs, and what attacks come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from table_text import markdown, measured

from penstock.attacks.evaluation_config import ADAPTIVE, CONTROLS

NAMES = {
    "vgg16-cifar10": "VGG-16-BN, CIFAR-10",
    "resnet20-cifar10": "ResNet-20, CIFAR-10",
    "resnet56-cifar10": "ResNet-56, CIFAR-10",
}
RATES = ("0.01", "0.05")
COSTLY = ("inflation",)
OWN = "path"


def false_positives(results: dict[str, Any]) -> list[str]:
    """A row for each exported graph: what was flagged of clean test images, and what had to be expected."""
    head = ["network", "form", "precision", "detector", "accuracy"]
    for rate in RATES:
        promised = f"{float(rate):.0%}"
        head += [f"flagged at {promised} (95 %)", f"expected at {promised} (99 %)", "mean of 100 re-splits"]
    lines = []
    for name, entry in results["networks"].items():
        for row in entry["false_positives"]:
            cells = [
                _name(name),
                row["lowering"],
                row["precision"],
                row["detector"],
                f"{row['accuracy']:.2%}",
            ]
            for rate in RATES:
                found = row["rates"][rate]
                cells += [
                    f"{found['measured']:.2%} ({_range(found['interval_95'])})",
                    _range(found["interval_99"]) + ("" if _inside(found) else ", **missed**"),
                    f"{found['resplit_mean']:.2%}",
                ]
            lines.append(cells)
    return _table(head, lines, results, words=4)


def detection(results: dict[str, Any]) -> list[str]:
    """A row for each attack or control and bound: PyTorch's network, its detector, and the best other score."""
    head = [
        *("network", "attack", "eps", "misread", "AUROC (95 %)", "flagged at 1 %", "flagged at 5 % (95 %)"),
        *("noise as large, at 5 %", "best other score", "its AUROC"),
    ]
    lines = []
    for name, attack in _attacks(results):
        control = attack["attack"] in CONTROLS
        own = attack["detectors"][OWN]["shown" if control else "turned"]
        if own is None or attack["attack"] in ADAPTIVE + COSTLY:
            continue
        other, area = _best_other(attack, "shown" if control else "turned")
        noise = attack.get("noise")
        lines.append(
            [
                *(name, attack["attack"], _eps(attack)),
                "-" if control else f"{attack['turned'] / attack['attacked']:.1%}",
                f"{own['auroc']['value']:.3f} ({own['auroc']['low']:.3f} to {own['auroc']['high']:.3f})",
                f"{own['tpr']['0.01']['value']:.1%}",
                _estimate(own["tpr"]["0.05"]),
                "-" if noise is None else _estimate(noise["0.05"]),
                *(other, area),
            ]
        )
    return _table(head, lines, results, words=3)


def scores(results: dict[str, Any]) -> list[str]:
    """A row for each score: its AUROC, mean over the attacks that do not know it, and the share of them it leads."""
    lines = []
    for name in dict.fromkeys(name for name, _ in _attacks(results)):
        areas: dict[str, list[float]] = {}
        for other, attack in _attacks(results):
            plain = attack["attack"] not in CONTROLS + ADAPTIVE + COSTLY
            if other == name and plain and attack["detectors"][OWN]["turned"] is not None:
                for score, found in attack["detectors"].items():
                    areas.setdefault(score, []).append(found["turned"]["auroc"]["value"])
        for score, values in sorted(areas.items(), key=lambda each: -sum(each[1])):
            best = sum(value == max(all_[at] for all_ in areas.values()) for at, value in enumerate(values))
            mean = sum(values) / len(values)
            lines.append([name, score, f"{mean:.3f}", f"{min(values):.3f}", f"{best} of {len(values)}"])
    head = ["network", "score", "mean AUROC", "least AUROC", "best at"]
    return _table(head, lines, results, words=2)


def evasion(results: dict[str, Any]) -> list[str]:
    """A row for each attack within a bound: share of all attacked images that end misread and not flagged, at 5 %."""
    bounds = sorted({attack["eps"] for _, attack in _attacks(results) if attack["eps"]})
    rows: dict[tuple[str, str], dict[float, str]] = {}
    for name, attack in _attacks(results):
        if attack["eps"] and attack["attack"] not in CONTROLS:
            found = attack["detectors"][OWN]["evasion"]["0.05"]
            rows.setdefault((name, attack["attack"]), {})[attack["eps"]] = _estimate(found)
    head = ["network", "attack", *(f"{eps:g}/255 (95 %)" for eps in bounds)]
    lines = [[*key, *(own.get(eps, "-") for eps in bounds)] for key, own in rows.items()]
    return _table(head, lines, results, words=2)


def served(results: dict[str, Any]) -> list[str]:
    """A row for each graph and attack: its own flags, at the rate that it promises."""
    lines = []
    for name, entry in results["networks"].items():
        for key in ("attacks", "observed_attacks"):
            for bundle in entry.get(key, {}).get("bundles", ()):
                clean = f"{bundle['clean']['as_served']['value']:.1%}"
                for attack in bundle["attacks"]:
                    own = attack["as_served"]
                    flagged = own["shown"] if attack["attack"] in CONTROLS else own["turned"]
                    if flagged is not None:
                        cells = [_name(name), bundle["name"], attack["attack"], _eps(attack), clean]
                        noise = "-" if own["noise"] is None else _estimate(own["noise"])
                        lines.append([*cells, _estimate(flagged), noise, f"{own['evasion']['value']:.1%}"])
    head = ["network", "graph", "attack", "eps", "clean", "flagged (95 %)", "noise as large", "evades"]
    return _table(head, lines, results, words=4)


def supervised(results: dict[str, Any]) -> list[str]:
    """A row for each attack that classifiers learned from: their AUROC on it, and on all the others."""
    lines = []
    for name, evaluation in _evaluations(results):
        for row in evaluation["supervised"]:
            own = row["auroc"].get(row["trained_on"])
            others = [
                area for attack, area in row["auroc"].items() if _kind(attack) != _kind(row["trained_on"])
            ]
            cells = [name, row["trained_on"], row["classifier"], str(row["per_class"])]
            cells += ["-" if own is None else f"{own:.3f}"]
            cells += [f"{sum(others) / len(others):.3f}", f"{min(others):.3f}"] if others else ["-", "-"]
            lines.append(cells)
    head = ["network", "learned from", "classifier", "images per class"]
    return _table([*head, "AUROC on it", "on the others, mean", "least"], lines, results, words=3)


def _kind(attack: str) -> str:
    return attack.partition("-")[0]


def inflation(results: dict[str, Any]) -> list[str]:
    """A row for each network: what its worst image costs, and what no image can exceed."""
    lines = []
    for name, attack in _attacks(results):
        if attack["attack"] in COSTLY:
            macs = attack["active_macs"]
            keys = ("mean_before", "mean", "largest", "bound")
            lines.append([name, *(f"{macs[key]:.1%}" for key in keys)])
    head = ["network", "MACs before", "after, mean", "after, largest", "bound by construction"]
    return _table(head, lines, results)


def _attacks(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, evaluation in _evaluations(results):
        for attack in evaluation["attacks"]:
            yield name, attack


def _evaluations(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, entry in results["networks"].items():
        for key, form in (("attacks", ""), ("observed_attacks", ", observed")):
            if key in entry:
                yield _name(name) + form, entry[key]


def _best_other(attack: Mapping[str, Any], part: str) -> tuple[str, str]:
    areas = {
        name: found[part]["auroc"]["value"] for name, found in attack["detectors"].items() if name != OWN
    }
    if not areas:
        return "-", "-"
    best = max(areas, key=lambda name: areas[name])
    return best, f"{areas[best]:.3f}"


def _inside(found: Mapping[str, Any]) -> bool:
    low, high = found["interval_99"]
    return bool(low <= found["measured"] <= high)


def _name(name: str) -> str:
    return NAMES.get(name, name)


def _eps(attack: Mapping[str, Any]) -> str:
    return f"{attack['eps']:g}/255" if attack["eps"] else "-"


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def _estimate(found: Mapping[str, float]) -> str:
    return f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def _table(head: list[str], lines: list[list[str]], results: dict[str, Any], words: int = 1) -> list[str]:
    if not lines:
        return []
    machines = [entry["machine"] for entry in results["networks"].values()]
    return [*markdown(head, lines, words), "", measured(machines)]
