"""What compiled networks have to reach: a verdict on each, from ``results/speed.json``.

Of several batches, numbers of threads or precisions, the worst one counts, and is named; while rows of ``speed.toml``
are missing, so is the verdict. Only ONNX Runtime's rows count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from speed_subjects import BATCHES, ORT, THREADS, forms, networks
from table_speed import FLAGS
from table_text import markdown, measured

Row = dict[str, Any]

AUTO = "auto"
GATES = "gates"  # without prototypes: what `auto` gives them with flags is reported, not required
LARGE = ("ResNet-18", "ResNet-50")  # above 200 million MACs, with paths of a known density
# Above 200 million MACs, with paths that were learned: the efficiency wanted is that of the density nearest to theirs.
CASCADES = {"VGG-16-BN": 0.82, "SqueezeNet 1.1": 0.90}
CASCADE = "cascade of it and dense"
EXPORTED = "cascade, auto, with flags"  # everything that an export can have


@dataclass(frozen=True)
class Requirement:
    """One line of the table.

    Attributes:
        what: the forms and what is measured of them.
        networks: which networks; ``()``: all of them, in one line.
        fits: whether a row is one of those that it is about.
        value: what is measured of a row, given all rows.
        bound: what has to be reached.
        most: whether the bound must not be exceeded; otherwise it is the least.
        unit: behind the figures.
    """

    what: str
    networks: tuple[str, ...]
    fits: Callable[[Row], bool]
    bound: float
    value: Callable[[Row, Sequence[Row]], float | None] = lambda row, _: float(row["speed_up"])
    most: bool = False
    unit: str = ""


def _efficiency(row: Row, _: Sequence[Row]) -> float:
    return float(row["efficiency"])


def _gates_efficiency(row: Row, rows: Sequence[Row]) -> float | None:
    """That of the work which gates ask for, also where `auto` runs more: a dense network saves none of it."""
    gathered = _sibling(row, rows, form=row["form"].replace("gates", "gathered").removesuffix(f", {AUTO}"))
    return None if gathered is None else float(row["speed_up"] * min(row["macs"], gathered["macs"]))


def _price(row: Row, rows: Sequence[Row]) -> float | None:
    """What flags add, in percent, or nothing where the same form without was not measured."""
    without = _sibling(row, rows, form=row["form"].removesuffix(FLAGS))
    return None if without is None else 100 * (row["ms"] / without["ms"] - 1)


def _lost(row: Row, rows: Sequence[Row]) -> float | None:
    """Percentage points of accuracy below the dense network."""
    dense = _sibling(row, rows, form="dense", precision="fp32")
    return None if dense is None else 100 * (dense["accuracy"] - row["accuracy"])


def _seconds(row: Row, _: Sequence[Row]) -> float:
    return float(row["export_seconds"])


def _sibling(row: Row, rows: Sequence[Row], **other: str) -> Row | None:
    """The row that differs in nothing but this."""
    wanted = {key: row[key] for key in ("network", "form", "precision", "engine", "batch", "threads")} | other
    return next((one for one in rows if all(one[key] == value for key, value in wanted.items())), None)


def _one(form: str, *precisions: str) -> Callable[[Row], bool]:
    """Rows of a form for a single image."""
    return lambda row: row["form"] == form and row["batch"] == 1 and row["precision"] in precisions


def _auto(*, flags: bool) -> Callable[[Row], bool]:
    return lambda row: AUTO in row["form"] and row["form"].endswith(FLAGS) == flags


REQUIREMENTS = (
    Requirement("`auto`, no flags, over dense", (), _auto(flags=False), 0.98),
    Requirement(
        "`auto` with flags, over dense",
        ("VGG-16-BN", "ResNet-18"),
        lambda row: _auto(flags=True)(row) and row["precision"] == "fp32" and GATES not in row["form"],
        1.2,
    ),
    *(
        Requirement(
            f"`routed`, K = 8, density {density}, {precision}, with flags: efficiency",
            LARGE,
            _one(f"routed, K = 8, density {density}{FLAGS}", precision),
            least,
            _efficiency,
        )
        for density, precision, least in (
            *(("0.5", "fp32", 0.90), ("0.25", "fp32", 0.82), ("0.5", "int8", 0.80), ("0.25", "int8", 0.80)),
        )
    ),
    *(
        Requirement(
            f"cascade, `routed`, {precision}, with flags: efficiency",
            (network,),
            _one(CASCADE + FLAGS, precision),
            least if precision == "fp32" else 0.80,
            _efficiency,
        )
        for network, least in CASCADES.items()
        for precision in ("fp32", "int8")
    ),
    *(
        Requirement(
            f"gates, density {density}, {how}: efficiency",
            LARGE,
            _one(form, "fp32"),
            0.65,
            _gates_efficiency,
        )
        for density in ("0.5", "0.25")
        for how, form in (
            ("`gathered` as it is", f"gathered, density {density}"),
            ("as `auto` tunes it", f"gates, density {density}, auto"),
        )
    ),
    *(
        Requirement(
            f"`routed`, K = 8, density {density}, {precision}, over dense",
            ("ResNet-18",),
            _one(f"routed, K = 8, density {density}", precision),
            least,
        )
        for density, precision, least in (("0.5", "fp32", 1.7), ("0.5", "int8", 1.5), ("0.25", "fp32", 2.6))
    ),
    Requirement("cascade, `auto`, fp32, over dense", ("VGG-16-BN",), _one("cascade, auto", "fp32"), 2.5),
    Requirement("cascade, `auto`, int8, over dense int8", ("VGG-16-BN",), _one("cascade, auto", "int8"), 2.0),
    Requirement(
        "cascade, `auto`: accuracy lost, points",
        ("VGG-16-BN",),
        _one("cascade, auto", "fp32", "int8"),
        0.5,
        _lost,
        most=True,
    ),
    Requirement(
        "cascade, `routed`, fp32: what flags add",
        tuple(CASCADES),
        _one(CASCADE + FLAGS, "fp32"),
        5.0,
        _price,
        most=True,
        unit=" %",
    ),
    Requirement(
        "everything on: export",
        ("ResNet-56",),
        _one(EXPORTED, "fp32", "int8"),
        90.0,
        _seconds,
        most=True,
        unit=" s",
    ),
)


def requirements(results: dict[str, Any]) -> list[str]:
    """A row for each network and requirement: what is wanted, the worst that was measured, whether that is enough."""
    rows = [row for row in results["rows"] if row["engine"] == ORT]
    if not rows:
        return []
    lines = [line for wanted in REQUIREMENTS for line in _judged(wanted, rows)]
    head = ("network", "what", "worst at", "required", "measured", "met")
    return [*markdown(head, lines, words=3), "", measured(row["machine"] for row in rows)]


def _judged(wanted: Requirement, rows: Sequence[Row]) -> Iterator[list[str]]:
    """One line for each network, or one for all."""
    required = f"{'at most' if wanted.most else 'at least'} {wanted.bound:g}{wanted.unit}"
    for network in wanted.networks or (None,):
        found = [
            (value, row)
            for row in rows
            if network in (None, row["network"]) and wanted.fits(row)
            if (value := wanted.value(row, rows)) is not None
        ]
        start = [network or "all", wanted.what]
        if not found:
            yield [*start, "-", required, "-", "not measured"]
            continue
        lacking = len(_settings(wanted, network, _planned()) - _settings(wanted, network, rows))
        value, row = (max if wanted.most else min)(found, key=lambda pair: pair[0])
        met = value <= wanted.bound if wanted.most else value >= wanted.bound
        yield [
            *start,
            _where(row, named=network is None),
            required,
            f"{value:.2f}{wanted.unit}",
            ("yes" if not lacking else f"so far; {lacking} not measured") if met else "**no**",
        ]


def _settings(wanted: Requirement, network: str | None, rows: Iterable[Row]) -> set[tuple[Any, ...]]:
    """Which rows a line is about."""
    return {
        tuple(row[key] for key in ("network", "form", "precision", "batch", "threads"))
        for row in rows
        if network in (None, row["network"]) and wanted.fits(row)
    }


@cache
def _planned() -> tuple[Row, ...]:
    """All rows that there will be, without their figures."""
    return tuple(
        {
            "network": network["name"],
            "form": form.label,
            "precision": form.precision,
            "batch": batch,
            "threads": threads,
        }
        for network in networks(["*"])
        for form in forms(network)
        if ORT in form.engines
        for batch in BATCHES
        for threads in THREADS
    )


def _where(row: Row, *, named: bool) -> str:
    setting = f"batch {row['batch']}, {row['threads']} thread{'s' * (row['threads'] > 1)}, {row['precision']}"
    return f"{row['network']}, {row['form']}, {setting}" if named else setting
