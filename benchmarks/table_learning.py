"""The tables of ``results/learning.json``: best settings, accuracy at equal MACs, what else was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from study_runs import KINDS, Row, read_study
from table_text import markdown, measured, points, share

NETWORKS = {
    "resnet20": "ResNet-20",
    "resnet56": "ResNet-56",
    "vgg16": "VGG-16",
    "squeezenet1_1": "SqueezeNet 1.1",
}
DATA = {"cifar10": "CIFAR-10", "caltech25": "Caltech-101, 25 classes"}
COMPARED = "resnet20"  # at equal MACs
BUDGETS = (0.5, 0.35, 0.25)
DEPENDENCE = ("gates-short", "gates-plain", "gates-uninformed")  # gates that differ in one thing
NOTHING = "-"  # not measured yet, or without meaning

Line = list[dict[str, Any]]  # runs that differ in their seed only


def best_settings(results: dict[str, Any]) -> list[str]:
    """One row for each network with the best settings that are known for it."""
    found = _lines(results["rows"], _is_best)
    head = ["network", "data", "images", "paths", "accuracy, dense", "accuracy", "points lost", "MACs"]
    head += ["filters that depend on the input", "epochs", "seeds"]
    rows = [
        (
            NETWORKS[line[0]["row"]["network"]],
            DATA[line[0]["data"]],
            ", ".join(f"{count:,}" for count in dict.fromkeys(_all(line, "images"))),
            KINDS[line[0]["row"]["kind"]],
            *_accuracies(line),
            share(_all(line, "mac_fraction")),
            _dependent(line),
            _epochs(line),
            _seeds(line),
        )
        for line in found
    ]
    return _finished(markdown(head, rows, words=4), found, _is_best)


def equal_macs(results: dict[str, Any]) -> list[str]:
    """One row for each way to choose paths, one column for each budget.

    A cell is the accuracy, the share of MACs, and the share of filters that depend on the input.
    """
    found = _lines(results["rows"], _is_compared)
    rows = []
    for kind in dict.fromkeys(line[0]["row"]["kind"] for line in _in_order(found)):
        own = {line[0]["row"]["budget"]: line for line in found if line[0]["row"]["kind"] == kind}
        cells = [own.get(budget, []) for budget in BUDGETS]
        rows.append(
            (KINDS[kind], *map(_accuracy_at, cells), _each(cells, _epochs), _each(cells, _seeds)),
        )
    head = ["paths", *(f"{budget:.0%} of the MACs" for budget in BUDGETS), "epochs", "seeds"]
    return _finished(markdown(head, rows), found, _is_compared)


def other_networks(results: dict[str, Any]) -> list[str]:
    """One row for each way to choose paths in the networks that are not compared at every budget."""
    found = _lines(results["rows"], _is_other)
    order = list(NETWORKS)
    found = sorted(_in_order(found), key=lambda line: order.index(line[0]["row"]["network"]))
    head = ["network", "paths", "accuracy, dense", "accuracy", "points lost", "MACs", "epochs", "seeds"]
    rows = [
        (
            NETWORKS[line[0]["row"]["network"]],
            KINDS[line[0]["row"]["kind"]],
            *_accuracies(line),
            share(_all(line, "mac_fraction")),
            _epochs(line),
            _seeds(line),
        )
        for line in found
    ]
    return _finished(markdown(head, rows, words=2), found, _is_other)


def dependence(results: dict[str, Any]) -> list[str]:
    """One row for each change to what makes gates depend on the input."""
    found = _in_order(_lines(results["rows"], _is_dependence))
    head = ["gates", "accuracy, dense", "accuracy", "points lost", "MACs"]
    head += ["filters that vary", "filters that depend on the input", "epochs", "seeds"]
    rows = [
        (
            KINDS[line[0]["row"]["kind"]],
            *_accuracies(line),
            *(share(_all(line, key)) for key in ("mac_fraction", "varying", "input_dependent")),
            _epochs(line),
            _seeds(line),
        )
        for line in found
    ]
    return _finished(markdown(head, rows), found, _is_dependence)


def paper_preset(results: dict[str, Any]) -> list[str]:
    """One row for each network that was trained as the paper's authors released it."""
    found = _lines(results["rows"], _is_paper)
    head = ["network", "accuracy, dense", "accuracy", "points lost", "MACs", "filters that vary"]
    head += ["filters that depend on the input", "epochs", "seeds"]
    rows = [
        (
            NETWORKS[line[0]["row"]["network"]],
            *_accuracies(line),
            *(share(_all(line, key)) for key in ("mac_fraction", "varying", "input_dependent")),
            _epochs(line),
            _seeds(line),
        )
        for line in found
    ]
    return _finished(markdown(head, rows), found, _is_paper)


def _is_best(row: Row) -> bool:
    return row.best


def _is_compared(row: Row) -> bool:
    return row.network == COMPARED and row.budget in BUDGETS and not _is_dependence(row)


def _is_other(row: Row) -> bool:
    return row.network != COMPARED and row.kind != "paper"


def _is_dependence(row: Row) -> bool:
    return row.kind in DEPENDENCE


def _is_paper(row: Row) -> bool:
    return row.kind == "paper"


def _lines(rows: Iterable[dict[str, Any]], wanted: Callable[[Row], bool]) -> list[Line]:
    """The runs that a table shows, those together that differ in their seed only."""
    lines: dict[tuple[Any, ...], Line] = {}
    for row in rows:
        if row["row"] is not None and wanted(Row(**row["row"])):
            lines.setdefault(tuple(row["row"][key] for key in ("network", "kind", "budget")), []).append(row)
    return list(lines.values())


def _in_order(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: list(KINDS).index(line[0]["row"]["kind"]))


def _finished(table: list[str], lines: list[Line], wanted: Callable[[Row], bool]) -> list[str]:
    """The table with what is missing and where it was measured; nothing at all where no run was measured."""
    if not lines:
        return []
    known = {row["name"] for line in lines for row in line}
    runs = [run for run in read_study().values() if run.row is not None and wanted(run.row)]
    missing = [f"`{run.name}`" for run in runs if run.name not in known]
    notes = [f"Not measured yet: {', '.join(missing)}.", ""] if missing else []
    return [*table, "", *notes, measured(row["machine"] for line in lines for row in line)]


def _all(line: Line, key: str) -> list[float]:
    return [row[key] for row in line]


def _dependent(line: Line) -> str:
    """Of a cascade nothing: its one decision is no share of filters."""
    values = _all(line, "input_dependent")
    return NOTHING if None in values else share(values)


def _accuracies(line: Line) -> tuple[str, str, str]:
    return (
        share(sorted(set(_all(line, "dense_accuracy"))), 2),
        share(_all(line, "decoupled_accuracy"), 2),
        points(_all(line, "loss_points")),
    )


def _accuracy_at(line: Line) -> str:
    if not line:
        return NOTHING
    dependent = _all(line, "input_dependent")
    varying = "" if None in dependent else f" ({_mean(dependent):.1%})"
    return f"{share(_all(line, 'decoupled_accuracy'), 2)} @ {_mean(_all(line, 'mac_fraction')):.1%}{varying}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _epochs(line: Line) -> str:
    return ", ".join(dict.fromkeys(" + ".join(map(str, row["epochs"])) for row in line))


def _seeds(line: Line) -> str:
    return ", ".join(str(row["row"]["seed"]) for row in line)


def _each(cells: Sequence[Line], say: Callable[[Line], str]) -> str:
    """What holds for every cell of a row; where cells differ, for one after the other."""
    said = [say(line) if line else NOTHING for line in cells]
    known = set(said) - {NOTHING}
    return known.pop() if len(known) == 1 else " / ".join(said)
