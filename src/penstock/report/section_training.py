"""The training's curves, out of the run's logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.report.drawing import MUTED, SERIES, Drawing, to_svg
from penstock.report.logs import Curves
from penstock.report.markup import NOTHING, Html, element, figure, join, text
from penstock.report.page import Section

ACCURACY, MACS, LOSS, TERM = "val/accuracy", "val/active_macs", "val/loss", "train/"
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def training_section(curves: Sequence[Curves], budget: float | None) -> Section:
    """Accuracy, cost and loss over the epochs of each training.

    Args:
        curves: of each training; none leaves a note.
        budget: share of MACs that was asked for, drawn beside the measured one.
    """
    if not curves:
        lead = "No training logs lie beside this checkpoint, so there are no curves."
        return Section("training", "Training", lead, NOTHING)
    parts = []
    for training in curves:
        # The dense network has no gates, and so no share to compare.
        wanted = budget if MACS in training.values else None
        caption = (
            "Left: on validation images, which choose the epoch. Right: terms of the loss on training images, weighted "
            "as they are minimised."
        )
        parts.append(element("h3", text(f"Training: {training.training}")))
        parts.append(figure(training_picture(training, wanted), caption))
    lead = (
        "Validation images choose the epoch that is kept; the test images that this page looks at are others."
    )
    return Section("training", "Training", lead, join(parts))


def training_picture(curves: Curves, budget: float | None) -> Html:
    """Two panels: accuracy and cost in validation, and the terms of the loss."""
    with Drawing(3.4) as drawing:
        left, right = drawing.subplots(1, 2)
        _validation(left, curves, budget)
        _terms(right, curves)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
        accuracy = curves.values.get(ACCURACY, np.full(len(curves.epochs), np.nan))
        best = f"{np.nanmax(accuracy):.1%}" if not np.isnan(accuracy).all() else "not logged"
        return to_svg(
            drawing,
            f"Training {curves.training} over {len(curves.epochs)} epochs; best validation accuracy {best}.",
        )


def _validation(axes: Any, curves: Curves, budget: float | None) -> None:
    named = ((ACCURACY, "accuracy", SERIES[0], "-"), (MACS, "share of the dense MACs", SERIES[1], "--"))
    for name, label, colour, dash in named:
        if name in curves.values:
            values = curves.values[name]
            there = ~np.isnan(values)
            axes.plot(curves.epochs[there], values[there], dash, color=colour, label=label)
    if budget is not None:
        axes.axhline(budget, color=MUTED, linewidth=0.9, linestyle=":", label=f"budget, {budget:.0%}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.set_title("validation")
    _legend(axes, 3)


def _terms(axes: Any, curves: Curves) -> None:
    terms = [name for name in curves.values if name.startswith(TERM)]
    for index, name in enumerate(terms):
        values = np.abs(curves.values[name])  # a term may be rewarded, and be negative
        there = values > 0
        axes.plot(
            curves.epochs[there],
            values[there],
            color=SERIES[index % len(SERIES)],
            linestyle=DASHES[index % len(DASHES)],
            label=name.removeprefix(TERM).replace("_", " "),
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("term of the loss, nats and shares")
    axes.set_title("training")
    if terms:
        _legend(axes, 3)


def _legend(axes: Any, columns: int) -> None:
    """Under the axes, where it covers no curve."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=8, columnspacing=1.4)
