"""Time compiled networks against their dense forms, and write ``results/speed.json``.

    python benchmarks/speed.py                          # everything in speed.toml
    python benchmarks/speed.py --only 'ResNet-18'       # one network
    python benchmarks/speed.py --batch 1 --threads 1    # some of the settings (each may be given several times)

All forms of a network are measured in turn, in one run: the median over the runs of each image, the mean over images,
which are test images where the network has a data set. *Accuracy* is that of the exported file on the images that
neither training nor the choice of the epoch nor calibration has seen. *Speed-up* is over the dense network in the same
engine, precision, batch and number of threads; *efficiency* is that speed-up as a share of what the saved work would
allow: speed-up / (dense MACs / executed MACs), everything that a form adds counted in both. Every export runs in a
process of its own, whose time and peak memory are kept too. Rows of networks that were not asked for stay.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
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
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import RESULTS, about, cores

from penstock import data
from penstock.bundle import LOGITS, read_bundle
from penstock.export.autotune.engines import Loaded, load
from penstock.export.autotune.measure import measure
from penstock.export.runtime import open_graph
from penstock.export.sample import synthetic_images
from penstock.files import sha256, write_atomic

SUBJECTS = Path(__file__).with_name("speed.toml")
FILE = "speed.json"
ORT = "onnxruntime"
AUTO = "auto"
LEAST_IMAGES = 64  # of a data set: how long a path takes depends on the image
SECONDS_EACH = 1.5  # of measuring, for each form


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


@dataclass(frozen=True)
class Made:
    """A form's file, and what its export took.

    Attributes:
        form: what it is of.
        file: the ONNX file.
        macs: share of the dense MACs that it executes.
        single: whether it takes exactly one image at a time.
        seconds: of the export.
        peak_mb: memory of the export.
    """

    form: Form
    file: Path
    macs: float
    single: bool
    seconds: float
    peak_mb: float

    @cached_property
    def sha256(self) -> str:
        """Hash of the file."""
        return sha256(self.file)


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
        for batch in parsed.batch or [1, 8]:
            new = timed(network, batch, parsed.threads or [1, 2])
            measured = {_setting(row) for row in new}
            rows = [row for row in rows if _setting(row) not in measured] + new
            write_atomic(file, json.dumps({"rows": rows}, indent=2) + "\n")
    return 0


def timed(network: dict[str, Any], batch: int, threads: list[int]) -> list[dict[str, Any]]:
    """Rows of one network at one batch size."""
    rows = []
    accuracies: dict[
        str, float | None
    ] = {}  # by the hash of the file: most are the same for all thread counts
    with tempfile.TemporaryDirectory() as folder:
        for count in threads:
            made = [exported(form, Path(folder), batch, count) for form in forms(network)]
            images = shown(network, 8 * batch)
            for each in made:
                if each.sha256 not in accuracies:
                    accuracies[each.sha256] = accuracy(each, network)
            runs = [(each, engine) for each in made for engine in each.form.engines]
            graphs = {name(each, engine): loaded(each, engine, count) for each, engine in runs}
            times = measure(graphs, images, batch=batch, seconds=SECONDS_EACH * len(graphs))
            for each, engine in runs:
                dense = times[name(made[0], engine, each.form.precision)]
                line = row(network, each, engine, batch, count, times[name(each, engine)], dense)
                rows.append(line | {"accuracy": accuracies[each.sha256]})
                print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def _setting(row: dict[str, Any]) -> tuple[str, int, int]:
    """What is measured in one go."""
    return row["network"], row["batch"], row["threads"]


def shown(network: dict[str, Any], count: int) -> npt.NDArray[np.uint8]:
    """Images to time with, ``[N, C, H, W]``."""
    if "data" not in network:
        return synthetic_images(count, (3, network["size"], network["size"]))
    test = data.load(network["data"]).test
    return test.images[np.random.default_rng(0).permutation(len(test))[: max(count, LEAST_IMAGES)]]


def accuracy(made: Made, network: dict[str, Any]) -> float | None:
    """Share of the test images that a bundle's file gets right; nothing where the weights are random."""
    if "data" not in network:
        return None
    test = data.load(network["data"]).test
    graph = open_graph(made.file, single=made.single, threads=cores())
    got = graph.run(test.images)[LOGITS]
    return float((got.argmax(1) == test.labels).mean())


def name(made: Made, engine: str, precision: str | None = None) -> str:
    """What a run is called among all of its network; with another precision, that of the same form at it."""
    return f"{made.form.label} / {precision or made.form.precision} / {engine}"


def row(
    network: dict[str, Any], made: Made, engine: str, batch: int, threads: int, ms: float, dense: float
) -> dict[str, Any]:
    """One line of the table."""
    return {
        "network": network["name"],
        "size": network["size"],
        "timing_only": network.get("timing_only", False),
        "form": made.form.label,
        "precision": made.form.precision,
        "engine": engine,
        "batch": batch,
        "threads": threads,
        "macs": made.macs,
        "ms": ms,
        "speed_up": dense / ms,
        "efficiency": dense / ms * made.macs,
        "export_seconds": made.seconds,
        "export_peak_mb": made.peak_mb,
        "file_mb": made.file.stat().st_size / 2**20,
        "machine": about(),
    }


def forms(network: dict[str, Any]) -> Iterator[Form]:
    """Every form of a network at every precision."""
    for form in network["form"]:
        for precision in form["precisions"]:
            engines = tuple(form.get("engines", (ORT,)))
            words = tuple(shlex.split(form["export"]))
            yield Form(form["label"], precision, words, form.get("script"), engines)


@cache
def exported(form: Form, folder: Path, batch: int, threads: int) -> Made:
    """Export in a process of its own; what is not measured to choose a lowering serves all thread counts."""
    if AUTO not in form.command and threads > 1:
        return exported(form, folder, batch, 1)
    model = hashlib.sha256(f"{form} {threads}".encode()).hexdigest()[:16]
    if form.script is not None:
        command = [str(Path(__file__).with_name(form.script)), *form.command]
        command += ["--batch", str(batch), "--out", str(folder / model)]
    else:
        command = ["-m", "penstock.cli", "export", *form.command]
        command += [] if form.precision == "fp32" else ["--precision", form.precision]
        command += ["--repository", str(folder), "--name", model, "--max-batch", str(batch)]
        command += ["--batch", str(batch), "--threads", str(threads)]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"export failed: {shlex.join(command)}")
    seconds, peak_mb = time.perf_counter() - start, usage.ru_maxrss / 1024
    if form.script is not None:
        share = json.loads((folder / model / "about.json").read_text(encoding="utf-8"))["macs"]
        return Made(form, folder / model / "model.onnx", share, False, seconds, peak_mb)
    bundle = read_bundle(folder / model / "1")
    about = bundle.manifest
    return Made(form, bundle.model_file, about.executed_macs, about.single, seconds, peak_mb)


def loaded(made: Made, engine: str, threads: int) -> Loaded:
    """A form's graph in one of the engines."""
    provider = {ORT: "cpu"}.get(engine, engine)
    return load(made.file.read_bytes(), provider, single=made.single, threads=threads)


if __name__ == "__main__":
    sys.exit(main())
