"""Measure the main job on both data sets and write ``results/main_job.json``.

    python benchmarks/main_job.py

CIFAR-10 is left out, and said to be, where ``PENSTOCK_DATA`` names no folder that holds it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, about
from rich.console import Console

from penstock.data import load
from penstock.demo import DATA, ZOO_CIFAR10, run_demo
from penstock.errors import NotFoundError
from penstock.export.autotune.measure import measure
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import open_bundle
from penstock.files import write_atomic

LOWERINGS = ("masked", "gathered")
SECONDS = 30.0  # of measuring, for each number of threads


def main() -> int:
    """Run everything and write the file."""
    results: dict[str, Any] = {"machine": about(), "demo": {}}
    with tempfile.TemporaryDirectory() as folder:
        for data in DATA:
            try:
                figures = run_demo(data, Path(folder) / f"{data}.png", None, Console())
            except NotFoundError as error:
                print(f"{data} left out: {error}", file=sys.stderr)
                continue
            results["demo"][data] = asdict(figures)
        if "cifar10" in results["demo"]:
            results["lowerings"] = _lowerings(Path(folder) / "models")
    write_atomic(RESULTS / "main_job.json", json.dumps(results, indent=2) + "\n")
    return 0


def _lowerings(models: Path) -> list[dict[str, Any]]:
    """Every lowering of the committed ResNet-20 against its dense form, batch 1, interleaved."""
    bundles = {
        "dense": export(ExportOptions(source=ZOO_CIFAR10, repository=models, name="dense", dense=True))
    }
    for name in LOWERINGS:
        for flags in (True, False):
            label = name if flags else f"{name}, no flags"
            options = ExportOptions(
                source=ZOO_CIFAR10,
                repository=models,
                name=f"{name}{'' if flags else '-plain'}",
                lowering=name,
                flags=flags,
            )
            bundles[label] = export(options)
    images = load("cifar10").test.take(np.arange(100)).images
    rows = []
    for threads in (1, 2):
        graphs = {label: open_bundle(bundle, threads=threads) for label, bundle in bundles.items()}
        times = measure(graphs, images, threads=threads, seconds=SECONDS)
        for label, milliseconds in times.items():
            ratio = times["dense"] / milliseconds
            rows.append(
                {"lowering": label, "threads": threads, "batch": 1, "ms": milliseconds, "ratio": ratio}
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
