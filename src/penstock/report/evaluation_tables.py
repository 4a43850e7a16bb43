"""The tables that ``penstock evaluate`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from penstock.learn.dependence import HIGH, LOW, STEADY
from penstock.report.evaluation import Evaluation


def evaluation_tables(figures: Evaluation) -> Group:
    """What was measured, then by class, then by layer."""
    return Group(_overview(figures), _by_class(figures), _by_layer(figures))


def _overview(f: Evaluation) -> Table:
    table = Table(title=escape(f"{f.source} on {f.data}"), show_header=True, header_style="bold")
    table.add_column("measured")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("how")
    varying = f"open on {LOW:.0%} to {HIGH:.0%} of the images"
    rows = [
        ("accuracy, dense", f"{f.dense_accuracy:.2%}", f"{f.images:,} test images"),
        ("accuracy, decoupled", f"{f.decoupled_accuracy:.2%}", "the same images"),
        ("loss", f"{f.loss_points:+.2f} points", "of accuracy; below 0 decoupling gained"),
        ("share of MACs", f"{f.mac_fraction:.1%}", "of the dense network's, gates counted"),
        ("density", f"{f.density:.1%}", "share of gated filters that are open"),
        (
            "input-dependent",
            _share(f.input_dependent),
            f"{varying}, and on {STEADY:.0%} of them noise of 1/255 leaves the bit alone",
        ),
        ("varying (naive)", _share(f.varying), f"{varying}; noise not asked"),
    ]
    if f.flags is not None:
        low, high = f.flags["fpr_interval_99"]
        rows.append(("false positives, promised", f"{f.flags['fpr_target']:.1%}", "of honest images flagged"))
        rows.append(
            (
                "false positives, measured",
                f"{f.flags['fpr']:.1%}",
                f"on the test images; 99% of the time between {low:.1%} and {high:.1%}",
            )
        )
    for row in rows:
        table.add_row(*row)
    return table


def _by_class(f: Evaluation) -> Table:
    rows = [
        (
            escape(figures.name),
            f"{figures.images:,}",
            *map(_share, (figures.dense_accuracy, figures.decoupled_accuracy, figures.mac_fraction)),
        )
        for figures in f.classes
    ]
    return _table("By class", ("class", "images", "dense", "decoupled", "MACs"), rows)


def _by_layer(f: Evaluation) -> Table:
    rows = [
        (
            escape(layer.name),
            str(layer.filters),
            *map(_share, (layer.density, layer.input_dependent, layer.varying)),
            *(f"{value:.3f}" for value in (layer.class_spread, layer.entropy, layer.information)),
        )
        for layer in f.layers
    ]
    headings = ("layer", "filters", "density", "input-\ndep.", "varying", "class\nspread", "H(z)", "I(z;y)")
    return _table("By layer (entropies in nats; means over the layer's filters)", headings, rows)


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, show_header=True, header_style="bold")
    for index, heading in enumerate(headings):
        # Only names may be long; they break rather than squeeze the figures.
        table.add_column(
            heading, justify="left" if index == 0 else "right", no_wrap=index > 0, overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
