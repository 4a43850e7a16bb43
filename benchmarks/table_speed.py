"""The tables of ``results/speed.json``: compiled networks against their dense forms, engine by engine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from table_text import markdown, measured

STATIC = re.compile(r"(?:routed, )?K = (\d+), (density [\d.]+)")  # forms that differ in K alone
FLAGS = ", with flags"  # what ends the name of a form that differs from another in nothing else
HEAD = ("network", "form", "precision", "engine", "accuracy", "MACs", "ms", "speed-up", "efficiency")


def summary(results: dict[str, Any]) -> list[str]:
    """One image, one thread, ONNX Runtime, single precision: a row a form, with its flags where it has any."""
    wanted = {"batch": 1, "threads": 1, "engine": "onnxruntime", "precision": "fp32"}
    rows = [row for row in results["rows"] if all(row[key] == value for key, value in wanted.items())]
    flagged = {
        (row["network"], row["form"].removesuffix(FLAGS)) for row in rows if row["form"].endswith(FLAGS)
    }
    rows = [row for row in rows if (row["network"], row["form"]) not in flagged and not _of_many(row["form"])]
    place = [index for index, title in enumerate(HEAD) if title not in ("precision", "engine")]
    lines = [[line[index] for index in place] for line in _lines(rows)]
    return _table([HEAD[index] for index in place], lines, rows, words=2)


def everything(results: dict[str, Any]) -> list[str]:
    """A table for each batch and number of threads."""
    found: list[str] = []
    for batch, threads in sorted({(row["batch"], row["threads"]) for row in results["rows"]}):
        rows = [row for row in results["rows"] if (row["batch"], row["threads"]) == (batch, threads)]
        found += [f"### Batch {batch}, {threads} thread{'s' * (threads > 1)}", ""]
        found += [*_table(list(HEAD), _lines(rows), rows, words=4), ""]
    return found[:-1]


def exports(results: dict[str, Any]) -> list[str]:
    """What each export took, as a process of its own; what other tools made is none."""
    rows = [row for row in results["rows"] if row["batch"] == row["threads"] == 1 and row["export_seconds"]]
    unique = {(row["network"], row["form"], row["precision"]): row for row in rows}
    head = ["network", "form", "precision", "export, s", "peak memory, MB", "file, MB"]
    lines = [[*key, *_took(row)] for key, row in unique.items()]
    return _table(head, lines, rows, words=3)


def growth(results: dict[str, Any]) -> list[str]:
    """How time and memory of exports grow with K, network by network; the dense one says how large that is."""
    rows = [row for row in results["rows"] if row["batch"] == row["threads"] == 1]
    found = {}
    for row in rows:
        fits = STATIC.fullmatch(row["form"])
        if row["precision"] == "fp32" and (fits or row["form"] == "dense"):
            count, density = (int(fits[1]), fits[2]) if fits else (0, "")
            found[row["network"], density, count] = row
    several = {key[:2] for key in found if key[2] > 1}
    shown = [
        (key, row)
        for key, row in sorted(found.items(), key=lambda item: item[0])
        if key[:2] in several or (key[2] == 0 and any(key[0] == network for network, _ in several))
    ]
    head = ["network", "paths", "K", "export, s", "peak memory, MB", "file, MB"]
    lines = [
        [network, density or "dense", str(count or "-"), *_took(row)]
        for (network, density, count), row in shown
    ]
    return _table(head, lines, [row for _, row in shown], words=2)


def flags(results: dict[str, Any]) -> list[str]:
    """What observers and detector add to the time of the same graph without them, measured in one run."""
    keys = ("network", "precision", "engine", "batch", "threads")
    found = {(row["form"], *(row[key] for key in keys)): row for row in results["rows"]}
    lines, shown = [], []
    for (form, *rest), row in found.items():
        without = found.get((form.removesuffix(FLAGS), *rest))
        if form.endswith(FLAGS) and without is not None:
            network, precision, engine, batch, threads = rest
            cells = [network, form.removesuffix(FLAGS), precision, engine, str(batch), str(threads)]
            lines.append(
                [*cells, f"{without['ms']:.3f}", f"{row['ms']:.3f}", f"{row['ms'] / without['ms'] - 1:+.1%}"]
            )
            shown.append(row)
    head = ["network", "form", "precision", "engine", "batch", "threads"]
    return _table([*head, "ms without", "ms with flags", "price"], lines, shown, words=4)


def _of_many(form: str) -> bool:
    """Whether a form is there to show what K does: it has several prototypes, and no flags."""
    static = STATIC.fullmatch(form)
    return static is not None and int(static[1]) > 1


def _took(row: dict[str, Any]) -> list[str]:
    return [f"{row['export_seconds']:.0f}", f"{row['export_peak_mb']:,.0f}", f"{row['file_mb']:.1f}"]


def _lines(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            f"{row['network']}, {row['size']}x{row['size']}",
            row["form"],
            row["precision"],
            row["engine"],
            "timing only" if row["accuracy"] is None else f"{row['accuracy']:.2%}",
            f"{row['macs']:.1%}",
            f"{row['ms']:.3f}",
            f"{row['speed_up']:.2f}",
            f"{row['efficiency']:.2f}",
        ]
        for row in rows
    ]


def _table(head: list[str], lines: list[list[str]], rows: list[dict[str, Any]], *, words: int) -> list[str]:
    return [*markdown(head, lines, words=words), "", measured(row["machine"] for row in rows)] if rows else []
