"""Time compiled networks against their dense forms, and write ``results/speed.json``.

    python benchmarks/speed.py                          # everything in speed.toml
    python benchmarks/speed.py --only 'ResNet-18'       # one network
    python benchmarks/speed.py --batch 1 --threads 1    # some of the settings (each may be given several times)

All forms of a network are measured in turn, in one run, medians. *Speed-up* is over the dense network in the same
engine, precision, batch and number of threads; *efficiency* is that speed-up as a share of what the saved work would
allow: speed-up / (dense MACs / executed MACs), everything that a form adds counted in both. Every export runs in a
process of its own, whose time and peak memory are kept too. Rows of networks that were not asked for stay.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import RESULTS, about

from penstock.bundle import Bundle, read_bundle
from penstock.export.autotune.engines import Loaded, load
from penstock.export.autotune.measure import measure
from penstock.export.sample import synthetic_images
from penstock.files import write_atomic

SUBJECTS = Path(__file__).with_name("speed.toml")
FILE = "speed.json"
ORT = "onnxruntime"
SECONDS_EACH = 1.5  # of measuring, for each form


@dataclass(frozen=True)
class Form:
    """One form of a network at one precision.

    Attributes:
        label: for the table.
        precision: as the command line has it.
        export: what follows ``penstock export``.
        engines: what runs it.
    """

    label: str
    precision: str
    export: tuple[str, ...]
    engines: tuple[str, ...] = (ORT,)


@dataclass(frozen=True)
class Made:
    """A form's bundle, and what its export took."""

    form: Form
    bundle: Bundle
    seconds: float
    peak_mb: float


def main() -> int:
    """Export, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="PATTERN", help="names of networks")
    parser.add_argument("--batch", action="append", type=int, metavar="N")
    parser.add_argument("--threads", action="append", type=int, metavar="T")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    parsed = parser.parse_args()
    file = parsed.out / FILE
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    for network in tomllib.loads(SUBJECTS.read_text(encoding="utf-8"))["network"]:
        if not any(fnmatch.fnmatch(network["name"], pattern) for pattern in parsed.only or ["*"]):
            continue
        rows = [row for row in rows if row["network"] != network["name"]]
        for batch in parsed.batch or [1, 8]:
            rows += timed(network, batch, parsed.threads or [1, 2])
        write_atomic(file, json.dumps({"rows": rows}, indent=2) + "\n")
    return 0


def timed(network: dict[str, Any], batch: int, threads: list[int]) -> list[dict[str, Any]]:
    """Rows of one network at one batch size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        made = [exported(form, Path(folder), str(place), batch) for place, form in enumerate(forms(network))]
        images = synthetic_images(8 * batch, made[0].bundle.manifest.input_shape)
        runs = [(each, engine) for each in made for engine in each.form.engines]
        for count in threads:
            graphs = {name(each, engine): loaded(each.bundle, engine, count) for each, engine in runs}
            times = measure(graphs, images, batch=batch, seconds=SECONDS_EACH * len(graphs))
            for each, engine in runs:
                dense = times[name(made[0], engine, each.form.precision)]
                rows.append(row(network, each, engine, batch, count, times[name(each, engine)], dense))
                print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def name(made: Made, engine: str, precision: str | None = None) -> str:
    """What a run is called among all of its network; with another precision, that of the same form at it."""
    return f"{made.form.label} / {precision or made.form.precision} / {engine}"


def row(
    network: dict[str, Any], made: Made, engine: str, batch: int, threads: int, ms: float, dense: float
) -> dict[str, Any]:
    """One line of the table."""
    executed = made.bundle.manifest.executed_macs
    return {
        "network": network["name"],
        "size": network["size"],
        "timing_only": network.get("timing_only", False),
        "form": made.form.label,
        "precision": made.form.precision,
        "engine": engine,
        "batch": batch,
        "threads": threads,
        "macs": executed,
        "ms": ms,
        "speed_up": dense / ms,
        "efficiency": dense / ms * executed,
        "export_seconds": made.seconds,
        "export_peak_mb": made.peak_mb,
        "file_mb": made.bundle.model_file.stat().st_size / 2**20,
        "machine": about(),
    }


def forms(network: dict[str, Any]) -> Iterator[Form]:
    """Every form of a network at every precision."""
    for form in network["form"]:
        for precision in form["precisions"]:
            engines = tuple(form.get("engines", (ORT,)))
            yield Form(form["label"], precision, tuple(shlex.split(form["export"])), engines)


def exported(form: Form, repository: Path, model: str, batch: int) -> Made:
    """Export in a process of its own."""
    command = [sys.executable, "-m", "penstock.cli", "export", *form.export]
    command += [] if form.precision == "fp32" else ["--precision", form.precision]
    command += ["--repository", str(repository), "--name", model, "--max-batch", str(batch)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"export failed: {shlex.join(command)}")
    bundle = read_bundle(repository / model / "1")
    return Made(form, bundle, time.perf_counter() - start, usage.ru_maxrss / 1024)


def loaded(bundle: Bundle, engine: str, threads: int) -> Loaded:
    """A bundle's graph in one of the engines."""
    provider = {ORT: "cpu"}.get(engine, engine)
    content = bundle.model_file.read_bytes()
    return load(content, provider, single=bundle.manifest.single, threads=threads)


if __name__ == "__main__":
    sys.exit(main())
