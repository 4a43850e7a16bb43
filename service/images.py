"""Image files to the arrays that a model takes, and its answers to a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.service.answers import Answer

_MODES = {1: "L", 3: "RGB"}
_UNFOLDED = 100_000

# What Pillow raises over a spoilt file, depending on the format.
_SPOILT = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def read_images(files: Sequence[Path], shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Read image files, converted to the model's channels and resized to its size.

    Args:
        files: PNG, JPEG, or whatever else Pillow reads; at least one.
        shape: ``(channels, height, width)``.

    Returns:
        ``[N, C, H, W]`` uint8.

    Raises:
        NotFoundError: a file is not there.
        InvalidArgumentError: a file is no image or not of 8 bits, or the model does not take grey or RGB images.
    """
    channels, height, width = shape
    if channels not in _MODES:
        raise InvalidArgumentError(f"the model takes {channels} channels; image files have 1 or 3")
    if not files:
        raise InvalidArgumentError("no image was named; pass at least one file")
    arrays = [_pixels(file, _MODES[channels], (width, height)) for file in files]
    stacked = np.stack(arrays).reshape(len(files), height, width, channels)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def answers_table(files: Sequence[Path], answer: Answer, class_names: Sequence[str]) -> Table:
    """One row per file: class, probability, cost, score, flag."""
    table = Table(
        Column("file", overflow="fold"), "class", "probability", "share of MACs", "anomaly score", "flag"
    )
    shifted = np.exp(answer.logits - answer.logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    for row, file in enumerate(files):
        index = int(probabilities[row].argmax())
        table.add_row(
            Text(str(file)),  # not a plain string: brackets in a name are no markup
            Text(class_names[index] if index < len(class_names) else str(index)),
            f"{probabilities[row, index]:.1%}",
            f"{answer.active_macs[row, 0]:.1%}",
            f"{answer.anomaly_score[row, 0]:.3f}",
            "[red]suspicious[/red]" if answer.adversarial[row, 0] else "-",
        )
    return table


def print_table(table: Table) -> None:
    """Print to stdout; into a pipe or a file without folding, so that each answer stays on one line."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNFOLDED)
    console.print(table)


def _pixels(file: Path, mode: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            found = image.mode
            pixels = np.asarray(image.convert(mode).resize(size, Image.Resampling.BILINEAR))
    except FileNotFoundError:
        raise NotFoundError(f"no image file {str(file)!r}") from None
    except _SPOILT as error:
        raise InvalidArgumentError(f"{str(file)!r} cannot be read as an image ({error})") from error
    if found.startswith(("I", "F")):  # 16 or 32 bits, which Pillow cuts off rather than scales
        raise InvalidArgumentError(
            f"{str(file)!r} has more than 8 bits a channel (mode {found}); save it with 8"
        )
    return pixels
