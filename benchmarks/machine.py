"""What a figure was measured on: travels with every result."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime

RESULTS = Path(__file__).parent / "results"
ARCHIVED = Path(__file__).parent / "COMMIT"


def about() -> dict[str, Any]:
    """Machine, threads, versions, commit and day."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": cores(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("penstock", "torch", "onnx", "numpy")}
        | {"onnxruntime": onnxruntime.__version__},
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str:
    command = ["git", "-C", str(RESULTS), "rev-parse", "--short", "HEAD"]
    found = archived(ARCHIVED.read_text(encoding="utf-8"))
    if not found:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return found or "unknown"


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
