"""Time compiled networks against their dense forms, and write ``results/speed.json``.

    python benchmarks/speed.py                          # everything in speed.toml
    python benchmarks/speed.py --only 'ResNet-18'       # one network
    python benchmarks/speed.py --batch 1 --threads 1    # some of the settings (each may be given several times)

All forms of a network are measured in turn, in one run: each takes all batches, after some that do not count, seven
times and more. Of each batch the median over its runs, of these the mean over batches, which are of test images where
the network has a data set: of those that cost in the mean what all do. *Accuracy* is that of the exported file on the
images that neither training nor the choice of the epoch nor calibration has seen. *Speed-up* is over the dense network
in the same engine, precision, batch and number of threads; *efficiency* is that speed-up as a share of what the saved
work would allow: speed-up / (dense MACs / executed MACs). What a form adds is in its time, and routers and gates, those
that only look on included, in its MACs; a detector's sums over the bits of a path are not. Every export runs in a
process of its own, whose time and peak memory are kept too. Rows of networks that were not asked for stay.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import RESULTS, about
from speed_forms import Made, accuracy, exported, shown, with_batch
from speed_subjects import BATCHES, ORT, SUBJECTS, THREADS, forms, networks

from penstock.export.autotune.engines import OPENVINO, Loaded, load
from penstock.export.autotune.measure import measure
from penstock.files import write_atomic
from penstock.manifest import INT8

FILE = "speed.json"
SECONDS_EACH = 6.0  # of measuring, for each form


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="PATTERN", help="names of networks")
    parser.add_argument("--batch", action="append", type=int, metavar="N")
    parser.add_argument("--threads", action="append", type=int, metavar="T")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    parser.add_argument("--seconds", type=float, default=SECONDS_EACH, help="of measuring, for each form")
    parser.add_argument("--subjects", type=Path, default=SUBJECTS, metavar="FILE", help="what to time")
    parsed = parser.parse_args(arguments)
    file = parsed.out / FILE
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    for network in networks(parsed.only or ["*"], parsed.subjects):
        accuracies: dict[str, float | None] = {}  # by the hash of the file, which serves several settings
        with tempfile.TemporaryDirectory() as folder:
            for batch in parsed.batch or BATCHES:
                for new in timed(
                    network, Path(folder), accuracies, batch, parsed.threads or THREADS, parsed.seconds
                ):
                    measured = {_setting(row) for row in new}
                    rows = [row for row in rows if _setting(row) not in measured] + new
                    write_atomic(file, json.dumps({"rows": rows}, indent=2) + "\n")
    return 0


def timed(
    network: dict[str, Any],
    folder: Path,
    accuracies: dict[str, float | None],
    batch: int,
    threads: Sequence[int],
    seconds: float,
) -> Iterator[list[dict[str, Any]]]:
    """Rows of one network at one batch size, for each number of threads.

    Exports stay in ``folder`` and what they get right in ``accuracies``, for other batch sizes.
    """
    for count in threads:
        made = [exported(form, folder, batch, count) for form in forms(network)]
        images = shown(network, 8 * batch, batch)
        for each in made:
            if each.sha256 not in accuracies:
                accuracies[each.sha256] = accuracy(each, network)
        runs = [(each, engine) for each in made for engine in each.form.engines]
        times = milliseconds(runs, images, batch, count, seconds)
        rows = []
        for each, engine in runs:
            dense = times[name(made[0], engine, each.form.precision)]
            line = row(network, each, engine, batch, count, times[name(each, engine)], dense)
            rows.append(line | {"accuracy": accuracies[each.sha256]})
            print(json.dumps(rows[-1]), file=sys.stderr)
        yield rows


def milliseconds(
    runs: Sequence[tuple[Made, str]], images: npt.NDArray[np.uint8], batch: int, threads: int, seconds: float
) -> dict[str, float]:
    """Of a batch, by form and engine. No graph outlives this: ResNet-50's forms, loaded twice, do not fit 24 GB."""
    graphs = {name(each, engine): loaded(each, engine, batch, threads) for each, engine in runs}
    return measure(graphs, images, batch=batch, threads=threads, seconds=seconds * len(graphs))


def _setting(row: dict[str, Any]) -> tuple[str, int, int]:
    """What is measured in one go."""
    return row["network"], row["batch"], row["threads"]


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
        "export_seconds": made.took and made.took.seconds,
        "export_peak_mb": made.took and made.took.peak_mb,
        "file_mb": made.file.stat().st_size / 2**20,
        "machine": about(),
    }


def loaded(made: Made, engine: str, batch: int, threads: int) -> Loaded:
    """A form's graph in one of the engines."""
    content = made.file.read_bytes()
    if engine in OPENVINO and made.form.precision == INT8:
        content = with_batch(content, 1 if made.single else batch)
    return load(content, {ORT: "cpu"}.get(engine, engine), single=made.single, threads=threads)


if __name__ == "__main__":
    sys.exit(main())
