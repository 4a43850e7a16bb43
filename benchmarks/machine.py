"""What a figure was measured on: travels with every result."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
ARCHIVED = Path(__file__).parent / "COMMIT"


def about() -> dict[str, Any]:
    """Machine, threads, versions, commit and day."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": COMMIT,
        "cpu": _cpu(),
        "cores": cores(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("penstock", "torch", "onnx", "numpy")}
        | {"onnxruntime": onnxruntime.__version__},
    }


def refuse_partial(parser: argparse.ArgumentParser, option: str | None, out: Path) -> None:
    """Refuse to put a part of the figures, which an option chose, in the place of all of them."""
    if option is not None and out.resolve() == RESULTS.resolve():
        parser.error(f"{option} leaves some out: name another folder with --out than {RESULTS}")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str:
    """The commit of this tree; ``-dirty`` if files other than results differ from it."""
    return archived(ARCHIVED.read_text(encoding="utf-8")) or _git_commit() or "unknown"


def _git_commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def archived(text: str) -> str:
    """The commit of a tree that `git archive` made; empty elsewhere, where nobody filled the file in."""
    return "" if "$" in text else text.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = [line.split(":", 1) for line in lines if ":" in line]
    found = {name.strip(): value.strip() for name, value in reversed(fields)}
    wide = "avx512f" in found.get("flags", "")
    return found.get("model name", platform.processor() or "unknown") + (" (AVX-512)" if wide else "")


# Of when a script began: others may commit while it measures.
COMMIT = _commit()
