"""Time compiled networks against their dense forms on a GPU, print a table, and write ``results/speed_gpu.json``.

    python benchmarks/speed_gpu.py                                   # everything in speed.toml, batches 1, 16 and 64
    python benchmarks/speed_gpu.py --only 'ResNet-18' --batch 1      # some of it
    python benchmarks/speed_gpu.py --only 'VGG*' --form 'K = 1*' --batch 2 --seconds 0.2 --out /tmp

The forms are those of `speed.py`, in float32 (as CUDA computes it: with TF32 where the GPU has that) and in float16,
with ONNX Runtime's CUDA provider, IOBinding and, where shapes allow, CUDA graphs. All forms of a network run in turn;
the median over the runs of each batch, the mean over the batches. *Speed-up* is over the dense network at the same
precision and batch, *efficiency* speed-up / (dense MACs / executed MACs). *Difference* is the median over images of the
norm of what the logits differ by from those of the same file on the CPU, relative to theirs.

Without a GPU all this runs on the CPU, and every row says so: to try the script, not to learn what a GPU would do. The
last command above is small enough for that.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import table_speed_gpu
from gpu_sessions import CPU, CUDA, Bound, bind
from machine import RESULTS, about
from speed_forms import Made, exported, shown
from speed_subjects import SUBJECTS, Form, forms, networks

from penstock.export.autotune.measure import feeds, interleaved
from penstock.files import write_atomic
from penstock.service.devices import find_device

FILE = "speed_gpu.json"
PRECISIONS = ("fp32", "fp16")
BATCHES = (1, 16, 64)
SECONDS_EACH = 1.0  # of measuring, for each form
BATCHES_TIMED = 4  # of different images: paths differ, and so does their time


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, measure, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="PATTERN", help="names of networks")
    parser.add_argument("--form", action="append", metavar="PATTERN", help="labels of forms; dense always is")
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--batch", action="append", type=int, metavar="N")
    parser.add_argument("--seconds", type=float, default=SECONDS_EACH, help="of measuring, for each form")
    parser.add_argument("--subjects", type=Path, default=SUBJECTS, metavar="TOML", help="what to time")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    parsed = parser.parse_args(arguments)
    found = find_device()
    if found.why_not_cuda:
        print(f"no GPU: {found.why_not_cuda}. Running on the CPU, which every row says.", file=sys.stderr)
    device = CPU if found.why_not_cuda else CUDA
    machine = about() | {"gpu": None if device == CPU else gpu_name()}
    file: Path = parsed.out / FILE
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    for network in networks(parsed.only or ["*"], parsed.subjects):
        with tempfile.TemporaryDirectory() as folder:
            for precision in parsed.precision or PRECISIONS:
                chosen = list(_forms(network, precision, parsed.form or ["*"]))
                for batch in parsed.batch or BATCHES:
                    new = timed(network, Path(folder), chosen, batch, device, parsed.seconds)
                    rows = _merged(rows, [line | {"machine": machine} for line in new])
                    write_atomic(file, json.dumps({"rows": rows}, indent=2) + "\n")
    print("\n".join(table_speed_gpu.everything({"rows": rows})))
    return 0


def timed(
    network: dict[str, Any], folder: Path, chosen: Sequence[Form], batch: int, device: str, seconds: float
) -> Iterator[dict[str, Any]]:
    """Rows of one network at one precision and batch size, the dense form's first; exports stay in ``folder``."""
    made = [exported(form, folder, batch, 1, device) for form in chosen]
    batches = feeds(shown(network, BATCHES_TIMED * batch, batch)[: BATCHES_TIMED * batch], batch)
    bound = [bind(each.file, batches, device, single=each.single) for each in made]
    times = interleaved(
        {each.form.label: own.runs for each, own in zip(made, bound, strict=True)},
        seconds=seconds * len(made),
    )
    dense = times[made[0].form.label]
    for each, own in zip(made, bound, strict=True):
        reference = bind(each.file, batches[:1], CPU, single=each.single).logits
        line = row(network, each, own, batch, device, times[each.form.label], dense)
        yield line | {"difference": difference(reference, own.logits)}


def row(
    network: dict[str, Any], made: Made, bound: Bound, batch: int, device: str, ms: float, dense: float
) -> dict[str, Any]:
    """One line of the table."""
    return {
        "network": network["name"],
        "size": network["size"],
        "timing_only": network.get("timing_only", False),
        "form": made.form.label,
        "precision": made.form.precision,
        "provider": device,
        "batch": batch,
        "cuda_graph": bound.cuda_graph,
        "macs": made.macs,
        "ms": ms,
        "images_per_second": batch / ms * 1000,
        "speed_up": dense / ms,
        "efficiency": dense / ms * made.macs,
        "export_seconds": made.took and made.took.seconds,
        "export_peak_mb": made.took and made.took.peak_mb,
    }


def difference(want: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> float:
    """Median over images of the norm of the difference of logits ``[N, classes]``, relative to that of ``want``."""
    norms = np.linalg.norm(got.astype(np.float64) - want, axis=1) / np.linalg.norm(want, axis=1)
    return float(np.median(norms))


def gpu_name() -> str:
    """Name and driver of the first GPU."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "a GPU without nvidia-smi"
    name, driver = told.split(", ")
    return f"{name}, driver {driver}"


def _forms(network: dict[str, Any], precision: str, labels: Sequence[str]) -> Iterator[Form]:
    """Every form once, dense first; what another script makes is float32 only."""
    seen = set()
    for form in forms(network):
        wanted = form.label == "dense" or any(fnmatch.fnmatch(form.label, label) for label in labels)
        if wanted and form.label not in seen and (form.script is None or precision == "fp32"):
            seen.add(form.label)
            yield replace(form, precision=precision)


def _merged(rows: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with those of the same setting replaced; a CPU's stand beside a GPU's."""

    def setting(line: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(line[key] for key in ("network", "precision", "batch", "provider"))

    measured = {setting(line) for line in new}
    return [line for line in rows if setting(line) not in measured] + new


if __name__ == "__main__":
    sys.exit(main())
