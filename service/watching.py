"""Flagged images in a terminal, as they come."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.console import Console
from rich.text import Text

from penstock.service.flag_records import FlagRecord

_ROW = "{:<8}  {:<24}  {:>5}  {:>9}  {:<20}  {:<16}  {}"
_HEADINGS = ("time", "model", "image", "score", "class", "path", "request")


def print_records(records: Iterable[FlagRecord], console: Console) -> None:
    """Print a line per record until there are no more."""
    console.print(Text(_ROW.format(*_HEADINGS), style="bold"), soft_wrap=True)
    for record in records:
        console.print(_line(record), soft_wrap=True)  # a narrow terminal wraps; a pipe gets whole lines


def _line(record: FlagRecord) -> Text:
    # As `Text`, because a request's id and a class's name are others' words, and rich would read markup in them.
    shown = (
        datetime.fromtimestamp(record.time).strftime("%H:%M:%S"),
        f"{record.model}/{record.version}",
        str(record.image_index),
        f"{record.score:.4g}",
        record.class_name,
        record.path_digest,
        record.request_id,
    )
    return Text(_ROW.format(*map(_printable, shown)))


def _printable(text: str) -> str:
    """Without control characters, which could drive the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
