"""Options that several commands share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # only in stubs can it be indexed
SOURCE = (
    "run folder, checkpoint file, zoo:NAME, or, for timing only, "
    "timing:NETWORK[,density=0.5][,prototypes=8][,seed=0] (resnet18, resnet50; prototypes=0: gates)"
)


def add_data(command: argparse.ArgumentParser) -> None:
    """``--data``."""
    command.add_argument("--data", type=Path, metavar="FOLDER", help="data folder (default: $PENSTOCK_DATA)")


def add_run(command: argparse.ArgumentParser, *, devices: bool = True) -> None:
    """``--out``, ``--data`` and ``--devices`` of a run."""
    command.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    add_data(command)
    if devices:
        command.add_argument(
            "--devices", type=int, default=1, metavar="N", help="GPUs or processes to train on (1)"
        )


def add_config(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``--config`` and ``--set``."""
    command.add_argument("--config", type=Path, required=required, metavar="FILE", help="TOML, see configs/")
    command.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="put this in the place of what the file says; VALUE as in TOML, KEY with dots into tables",
    )


def add_rate(command: argparse.ArgumentParser) -> None:
    """``--fpr``."""
    command.add_argument(
        "--fpr", type=float, default=0.05, metavar="RATE", help="promised false-positive rate"
    )


def add_ray(command: argparse._ActionsContainer) -> None:
    """``--ray``."""
    command.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="work on a Ray cluster: HOST:PORT, auto (default: the one this machine is in) or local (a new one)",
    )


def say(line: str) -> None:
    """Tell what is going on."""
    print(f"- {line}", file=sys.stderr)


def print_figures(figures: Mapping[str, Any]) -> None:
    """Print what was measured, as JSON."""
    print(json.dumps(dict(figures), indent=2))
