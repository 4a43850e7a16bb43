"""What the benchmarks of speed time: forms of networks as ``speed.toml`` names them, and at which settings."""

from __future__ import annotations

import fnmatch
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUBJECTS = Path(__file__).with_name("speed.toml")
BATCHES = (1, 8)
THREADS = (1, 2)
ORT = "onnxruntime"


@dataclass(frozen=True)
class Form:
    """One form of a network at one precision.

    Attributes:
        label: for the table.
        precision: as the command line has it.
        command: what follows ``penstock export``, or the other script that makes it and what follows that.
        script: of ``benchmarks/``; ``None``: ``penstock export``.
        engines: what runs it.
    """

    label: str
    precision: str
    command: tuple[str, ...]
    script: str | None = None
    engines: tuple[str, ...] = (ORT,)


def networks(patterns: Sequence[str], subjects: Path = SUBJECTS) -> Iterator[dict[str, Any]]:
    """The networks whose names fit one of the patterns, as they stand in the file."""
    for network in tomllib.loads(subjects.read_text(encoding="utf-8"))["network"]:
        if any(fnmatch.fnmatch(network["name"], pattern) for pattern in patterns):
            yield network


def forms(network: dict[str, Any]) -> Iterator[Form]:
    """Every form of a network at every precision."""
    for form in network["form"]:
        for precision in form["precisions"]:
            engines = tuple(form.get("engines", (ORT,)))
            words = tuple(shlex.split(form["export"]))
            yield Form(form["label"], precision, words, form.get("script"), engines)
