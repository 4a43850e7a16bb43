"""The tables of ``results/detection.json``: false positives of exported graphs, and what attacks come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from table_text import markdown, measured

from penstock.attacks.evaluation_config import ADAPTIVE, CONTROLS, OWN, UNAWARE, named
from penstock.attacks.evaluation_figures import FEWEST
from penstock.attacks.served import rows_as_served

NAMES = {
    "vgg16-cifar10": "VGG-16-BN, CIFAR-10",
    "resnet20-cifar10": "ResNet-20, CIFAR-10",
    "resnet56-cifar10": "ResNet-56, CIFAR-10",
}
RATES = ("0.01", "0.05")
RESPLIT_MARGIN = 0.001
MISSED = ", **missed**"
COSTLY = ("inflation",)


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
                    _range(found["interval_99"]) + ("" if inside(found) else MISSED),
                    f"{found['resplit_mean']:.2%}" + ("" if unbiased(found, rate) else MISSED),
                ]
            lines.append(cells)
    return _table(head, lines, results, words=4)


def detection(results: dict[str, Any]) -> list[str]:
    """A row for each attack or control and bound: images, PyTorch's network and detector, and the best other score."""
    head = [
        *(
            "network",
            "attack",
            "eps",
            "images",
            "misread",
            "AUROC (95 %)",
            "flagged at 1 % (95 %)",
            "flagged at 5 % (95 %)",
        ),
        *("noise as large, at 5 % (95 %)", "where the attack failed, at 5 % (95 %)"),
        *("best other score", "its AUROC (95 %)"),
    ]
    lines = []
    for name, attack in _attacks(results):
        control = attack["attack"] in CONTROLS
        own = attack["detectors"][OWN]["shown" if control else "turned"]
        if own is None or attack["attack"] in ADAPTIVE + COSTLY:
            continue
        other, area = ("-", "-") if control else _best_other(attack)
        noise = attack.get("noise")
        failed = None if control else attack["detectors"][OWN]["failed"]
        lines.append(
            [
                *(name, attack["attack"], _eps(attack), str(attack["attacked"])),
                "-" if control else f"{attack['turned'] / attack['attacked']:.1%}",
                area_text(own["auroc"]),
                *(rate_text(own["tpr"][rate]) for rate in RATES),
                *(rate_text(found and found["0.05"]) for found in (noise, failed)),
                *(other, area),
            ]
        )
    return _table(head, lines, results, words=3)


def scores(results: dict[str, Any]) -> list[str]:
    """A row for each score: its AUROC, mean over the attacks that do not know it, and how far the path's is ahead."""
    lines = []
    for name, evaluation in evaluations(results):
        means = evaluation["means"]
        if means is None:
            continue
        unaware = [attack for attack in evaluation["attacks"] if _piece(attack) in means["attacks"]]
        areas = {
            score: [attack["detectors"][score]["turned"]["auroc"]["value"] for attack in unaware]
            for score in means["auroc"]
        }
        for score, mean in sorted(means["auroc"].items(), key=lambda each: -each[1]["value"]):
            best = sum(
                value == max(all_[at] for all_ in areas.values()) for at, value in enumerate(areas[score])
            )
            ahead = "-" if score == OWN else area_text(means["ahead"][score])
            figures = [area_text(mean), ahead, f"{min(areas[score]):.3f}", f"{best} of {len(unaware)}"]
            lines.append([name, score, *figures])
    head = [
        "network",
        "score",
        "mean AUROC (95 %)",
        "the path's is ahead by (95 %)",
        "least AUROC",
        "best at",
    ]
    return [*_table(head, lines, results, words=2), *_left_out(results)]


def _left_out(results: dict[str, Any]) -> Iterator[str]:
    """Attacks that turned too few images to have a part in the mean."""
    for name, evaluation in evaluations(results):
        told = (evaluation["means"] or {"attacks": ()})["attacks"]
        left = [
            f"`{_piece(attack)}` ({attack['turned']} of {attack['attacked']})"
            for attack in evaluation["attacks"]
            if attack["attack"] in UNAWARE and _piece(attack) not in told
        ]
        if left:
            yield ""
            yield f"{name}, left out: {', '.join(left)}; an area over fewer than {FEWEST} images is mostly chance."


def _piece(attack: Mapping[str, Any]) -> str:
    return named(attack["attack"], attack["eps"])


def evasion(results: dict[str, Any]) -> list[str]:
    """A row for each attack within a bound: share of all attacked images that end misread and not flagged, at 5 %.

    The last of each network is what an attacker reaches who tries them all.
    """
    bounds = sorted({attack["eps"] for _, attack in _attacks(results) if attack["eps"]})
    rows: dict[tuple[str, str, str], dict[float, str]] = {}
    for name, evaluation in evaluations(results):
        bounded = [each for each in evaluation["attacks"] if each["eps"] and each["attack"] not in CONTROLS]
        shown = [(each["attack"], each, each["detectors"][OWN]["evasion"]) for each in bounded]
        shown += [("any of these", each, each["evasion"]) for each in evaluation["any"]]
        for attack, each, found in shown:
            own = rows.setdefault((name, attack, str(each["attacked"])), {})
            own[each["eps"]] = rate_text(found["0.05"])
    head = ["network", "attack", "images", *(f"{eps:g}/255 (95 %)" for eps in bounds)]
    lines = [[*key, *(own.get(eps, "-") for eps in bounds)] for key, own in rows.items()]
    return _table(head, lines, results, words=2)


def served(results: dict[str, Any]) -> list[str]:
    """A row for each graph and attack: its own flags, at the rate that it promises."""
    lines = []
    for name, evaluation in evaluations(results):
        for bundle in evaluation["bundles"]:
            clean = rate_text(bundle["clean"]["as_served"])
            for attack, rates in rows_as_served(bundle, evaluation["detector"]):
                cells = [name, bundle["name"], attack["attack"], _eps(attack), clean]
                lines.append([*cells, *map(rate_text, rates)])
    head = ["network", "graph", "attack", "eps"]
    head += [f"{what} (95 %)" for what in ("clean", "flagged", "noise as large", "evades")]
    return _table(head, lines, results, words=4)


def supervised(results: dict[str, Any]) -> list[str]:
    """A row for each attack that classifiers learned from: their AUROC on it, and on all the others."""
    lines = []
    for name, evaluation in evaluations(results):
        for row in evaluation["supervised"]:
            own = row["auroc"].get(row["trained_on"])
            others = [
                area for attack, area in row["auroc"].items() if _kind(attack) != _kind(row["trained_on"])
            ]
            cells = [
                name,
                row["trained_on"],
                row["classifier"],
                str(row["per_class"]),
                str(row["attacked_images"]),
            ]
            cells += ["-" if own is None else area_text(_with_interval(own, row["interval_95"]))]
            cells += [f"{sum(others) / len(others):.3f}", f"{min(others):.3f}"] if others else ["-", "-"]
            lines.append(cells)
    head = ["network", "learned from", "classifier", "images per class", "attacked ones in all"]
    return _table([*head, "AUROC on it (95 %)", "on the others, mean", "least"], lines, results, words=3)


def _with_interval(value: float, interval: tuple[float, float]) -> dict[str, float]:
    return {"value": value, "low": interval[0], "high": interval[1]}


def _kind(attack: str) -> str:
    return attack.partition("-")[0]


def inflation(results: dict[str, Any]) -> list[str]:
    """A row for each network: what its worst image costs, and what no image can exceed."""
    lines = []
    for name, attack in _attacks(results):
        if attack["attack"] in COSTLY:
            macs = attack["active_macs"]
            keys = ("mean_before", "mean", "largest", "bound")
            figures = [f"{macs[key]:.1%}" for key in keys]
            at_bound = [rate_text(macs["at_bound"][when]) for when in ("before", "after")]
            flagged = attack["detectors"][OWN]["shown"]["tpr"]["0.05"]
            rates = map(rate_text, (macs["over_budget"], flagged))
            lines.append([name, str(attack["attacked"]), *figures, *at_bound, *rates])
    head = ["network", "images", "MACs before", "after, mean", "after, largest", "bound by construction"]
    head += ["at the bound before (95 %)", "after (95 %)", "over budget (95 %)", "flagged at 5 % (95 %)"]
    return _table(head, lines, results)


def inflated_latency(results: dict[str, Any]) -> list[str]:
    """A row for each graph: what an image takes, alone, before inflation and after."""
    lines = []
    for name, evaluation in evaluations(results):
        for bundle in evaluation["bundles"]:
            for attack in bundle["attacks"]:
                if attack["attack"] in COSTLY:
                    before, after = (attack["latency_ms"][when] for when in ("before", "after"))
                    lines.append(
                        [name, bundle["name"], f"{before:.2f}", f"{after:.2f}", f"{after / before:.2f}"]
                    )
    head = ["network", "graph", "ms before", "ms after", "times as long"]
    return _table(head, lines, results, words=2)


def _attacks(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, evaluation in evaluations(results):
        for attack in evaluation["attacks"]:
            yield name, attack


def evaluations(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What networks and observed networks are called, and what attacks on them came to."""
    for name, entry in results["networks"].items():
        for key, form in (("attacks", ""), ("observed_attacks", ", observed")):
            if key in entry:
                yield _name(name) + form, entry[key]


def _best_other(attack: Mapping[str, Any]) -> tuple[str, str]:
    areas = {name: found["turned"]["auroc"] for name, found in attack["detectors"].items() if name != OWN}
    if not areas:
        return "-", "-"
    best = max(areas, key=lambda name: areas[name]["value"])
    return best, area_text(areas[best])


def inside(found: Mapping[str, Any]) -> bool:
    """Whether a measured false-positive rate is what chance allows in 99 of 100 cases."""
    low, high = found["interval_99"]
    return bool(low <= found["measured"] <= high)


def unbiased(found: Mapping[str, Any], rate: str) -> bool:
    """Whether the mean over re-splits is as near to the promised rate as it has to be."""
    return bool(abs(found["resplit_mean"] - float(rate)) <= RESPLIT_MARGIN)


def _name(name: str) -> str:
    return NAMES.get(name, name)


def _eps(attack: Mapping[str, Any]) -> str:
    return f"{attack['eps']:g}/255" if attack["eps"] else "-"


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def rate_text(found: Mapping[str, float] | None) -> str:
    """A share with its interval, where there is one."""
    return "-" if found is None else f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def area_text(found: Mapping[str, float]) -> str:
    """An area, or a difference of two, with its interval."""
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _table(head: list[str], lines: list[list[str]], results: dict[str, Any], words: int = 1) -> list[str]:
    if not lines:
        return []
    machines = [entry["machine"] for entry in results["networks"].values()]
    return [*markdown(head, lines, words), "", measured(machines)]
