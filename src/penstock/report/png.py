"""Matplotlib's figures as PNG files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from penstock.files import write_atomic

DPI = 110


def canvas(width: float, height: float) -> Any:
    """An empty figure of so many inches, which no window and no other figure knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_png(figure: Any, file: Path) -> None:
    """Write a drawn figure whole or not at all, whatever the file is called; its folder is made."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    write_atomic(file, content.getvalue())
