"""Time batches of routed networks by which paths stand in them, and write ``results/mixed_batches.json``.

    python benchmarks/mixed_batches.py                                            # everything, on the CPU
    python benchmarks/mixed_batches.py --gpu                                      # ... into mixed_batches_gpu.json
    python benchmarks/mixed_batches.py --only ResNet-56 --batch 16 --seconds 0.5 --out /tmp

The same images four ways, in turn: one by one; in batches as they come, which mix paths; in batches after they were
sorted by path, the best that a queue by path could do that has four batches waiting; and batches of one image repeated,
whose rows all take one path, which bounds what any such queue could gain. Those images are one of each sorted batch: of
a cascade, whose paths cost differently, they have the others' mix of paths to an eighth. The median over the runs of
each batch, the mean over the batches; copies to and from a GPU are in it, as the service makes them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import table_mixed_batches
from batching import NETWORKS
from machine import RESULTS, about, refuse_partial
from speed_forms import exported, shown
from speed_gpu import gpu_name
from speed_subjects import Form

from penstock.bundle import PATH
from penstock.export.autotune.measure import LEAST_BATCHES, Run, feeds, interleaved
from penstock.files import write_atomic
from penstock.service.devices import CPU, CUDA, Device, find_device
from penstock.service.session import Session

FILES = {CPU: "mixed_batches.json", CUDA: "mixed_batches_gpu.json"}
# Without flags: what observers see differs from image to image, and sorts nothing that runs.
ROUTED = [
    network | {"export": [*network["export"], "--no-flags"]}
    for network in NETWORKS
    if "routed" in network["export"]
]
BATCHES = (16, 64)
Images = npt.NDArray[np.uint8]


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, measure, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="of a network's name")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a network and batch")
    parser.add_argument("--threads", type=int, default=1, help="of the graph on the CPU")
    parser.add_argument("--gpu", action="store_true", help="needs one that ONNX Runtime can use")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    given = parser.parse_args(arguments)
    refuse_partial(parser, "--only" if given.only else None, given.out)
    device = find_device() if given.gpu else Device(CPU)
    if given.gpu and device.provider != CUDA:
        raise SystemExit(f"--gpu: {device.why_not_cuda}")
    rows = []
    for network in ROUTED:
        if given.only not in network["name"]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            form = Form("routed", "fp32", tuple(network["export"]))
            file = exported(form, Path(folder), max(given.batch), given.threads).file
            session = Session(file, device, threads=given.threads)
            for batch in given.batch:
                images = shown(network, LEAST_BATCHES * batch)[: LEAST_BATCHES * batch]
                found = compare(session, images, batch, given.seconds)
                rows.append({"network": network["name"], "size": network["size"], "batch": batch, **found})
    where = gpu_name() if given.gpu else f"its CPU, threads: {given.threads}"
    results = {"machine": about(), "where": where, "rows": rows}
    write_atomic(given.out / FILES[device.provider], json.dumps(results, indent=2) + "\n")
    print("\n".join(table_mixed_batches.everything(results)))
    return 0


def compare(session: Session, images: Images, batch: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of an image each way, and how many different paths a batch has.

    Args:
        session: of a graph that takes batches and says its paths.
        images: ``[LEAST_BATCHES * batch, C, H, W]``: so many that every way is timed with all of them.
        batch: images of a batch.
        seconds: that it may take.
    """
    outputs = [tensor.name for tensor in session.outputs]
    paths = np.concatenate([session.run(feed, [PATH])[PATH] for feed in feeds(images, batch)])
    order = np.lexsort(paths.T[::-1])  # by the first stage, and where that is the same, by the next
    middle = order[batch // 2 :: batch]  # an image of each sorted batch

    def run(chosen: Images, size: int) -> list[Run]:
        return [partial(session.run, feed, outputs) for feed in feeds(chosen, size)]

    single = run(images, 1)
    runs: dict[str, list[Run]] = {
        "one by one": [partial(_all, single[at : at + batch]) for at in range(0, len(single), batch)],
        "mixed": run(images, batch),
        "sorted": run(images[order], batch),
        "alike": run(np.repeat(images[middle], batch, axis=0), batch),
    }
    times = interleaved(runs, seconds=seconds)
    return {
        "ms": {way: ms / batch for way, ms in times.items()},
        "paths": {"mixed": _different(paths, batch), "sorted": _different(paths[order], batch)},
    }


def _all(runs: Sequence[Run]) -> None:
    for run in runs:
        run()


def _different(paths: npt.NDArray[np.uint8], batch: int) -> float:
    """How many different paths there are in a batch, on average."""
    batches = [paths[at : at + batch] for at in range(0, len(paths), batch)]
    return float(np.mean([len(np.unique(each, axis=0)) for each in batches]))


if __name__ == "__main__":
    sys.exit(main())
