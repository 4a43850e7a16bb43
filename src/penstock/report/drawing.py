"""Matplotlib's figures as SVG that stands inside an HTML page and follows its colours and letters.

Colours are drawn as placeholders and then replaced by the style sheet's variables, so that one picture is readable on
a light page and on a dark one. Heat maps are one colour at varying opacity for the same reason.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.report.markup import Html, text

# Unlikely colours, each replaced by the variable of its name in `penstock.report.stylesheet`.
INK, MUTED, LINE, CARD = "#010a01", "#010a02", "#010a03", "#010a04"
ALWAYS, NEVER = "#010a05", "#010a06"
SERIES = ("#010b01", "#010b02", "#010b03", "#010b04", "#010b05")
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    CARD: "--card",
    ALWAYS: "--always",
    NEVER: "--never",
} | {colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)}

HEAT = (0.11, 0.47, 0.78)  # red, green, blue; in the middle between a white page and a black one
WIDTH = 9.6  # inches of a picture as wide as the page
ROOM = 80  # letters that fit side by side under such a picture
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


class Drawing:
    """A figure to draw on, as a context: inside it Matplotlib has the page's style.

    Args:
        height: in inches.
        width: in inches.
    """

    def __init__(self, height: float, width: float = WIDTH) -> None:
        from matplotlib import rc_context

        self._style = rc_context(STYLE)
        self._size = width, height

    def __enter__(self) -> Any:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self._style.__enter__()
        figure = Figure(figsize=self._size, layout="constrained")
        FigureCanvasSVG(figure)
        return figure

    def __exit__(self, *error: object) -> None:
        self._style.__exit__(None, None, None)


def to_svg(figure: Any, alt: str) -> Html:
    """The drawn figure as an element.

    Args:
        figure: drawn inside a `Drawing`.
        alt: what the picture shows, for those who do not see it.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    # Names inside one picture must not be those of another on the same page; the alternative text tells them apart.
    with rc_context({"svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    source = buffer.getvalue()
    body = source[source.index(">", source.index("<svg")) + 1 : source.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="(?:figure|axes|patch|line2d|text|matplotlib|xtick|ytick|legend)[^"]*"', "", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    width, height = (72 * inches for inches in figure.get_size_inches())
    opening = (
        f'<svg class="picture" style="--least: {width * 1.15:.0f}px" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="{text(alt)}">'
    )
    return Html(f"{opening}{body}</svg>")


def heat(axes: Any, values: npt.NDArray[np.float64], low: float, high: float) -> None:
    """Draw a matrix: the more opaque, the higher; what is no number stays empty.

    Args:
        axes: where.
        values: ``[rows, columns]``.
        low: value that is fully transparent.
        high: value that is fully opaque.
    """
    opacity = np.clip((np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12), 0.0, 1.0)
    image = np.empty((*values.shape, 4))
    image[..., :3] = HEAT
    image[..., 3] = opacity
    axes.imshow(image, aspect="auto", interpolation="none")
    axes.grid(False)


def heat_scale(axes: Any, low: float, high: float, label: str, unit: str = "%") -> None:
    """Draw the scale that belongs to `heat`, upright, on axes of its own."""
    heat(axes, np.linspace(high, low, 64)[:, None], low, high)
    ends = [f"{100 * value:.0f}%" if unit == "%" else f"{value:.2f}" for value in (high, low)]
    axes.set_yticks([-0.5, 63.5], ends)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_ylabel(label, color=MUTED)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color=LINE)


def name_layers(axes: Any, names: Sequence[str], most: int = 28) -> None:
    """Write layers' names along the horizontal axis; of very many, only some."""
    step = -(-len(names) // most)
    places = range(0, len(names), step)
    shown = [names[place] for place in places]
    if sum(map(len, shown)) > ROOM:
        axes.set_xticks(places, shown, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(places, shown)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel("layer, from input to output" if step == 1 else f"layer, every {step}th named")


def name_classes(axes: Any, names: Sequence[str], size: int = 8) -> None:
    """Write classes' names along the horizontal axis of a heat map, upright where they are long."""
    rotation = 90 if max(map(len, names)) > 2 else 0
    axes.set_xticks(range(len(names)), names, rotation=rotation, fontsize=size)
    axes.tick_params(length=0)


def percent(axes: Any, label: str) -> None:
    """A vertical axis of shares, 0 to 100 %."""
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.set_ylabel(label)
