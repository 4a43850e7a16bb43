"""The forms that the benchmarks of speed time, each exported by itself."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from machine import cores
from speed_subjects import Form
from usage import Usage, usage

from penstock import data
from penstock.bundle import LOGITS, read_bundle
from penstock.export.autotune.representative import representative
from penstock.export.runtime import open_graph
from penstock.export.sample import synthetic_images
from penstock.files import sha256
from penstock.nn.checkpoint import load_source
from penstock.nn.inference import answer

AUTO, ROUTED = "auto", "routed"  # as commands name them
LEAST_IMAGES = 64  # of a data set: how long a path takes depends on the image


@dataclass(frozen=True)
class Made:
    """A form's file, and what its export took.

    Attributes:
        form: what it is of.
        file: the ONNX file.
        macs: share of the dense MACs that it executes.
        single: whether it takes exactly one image at a time.
        took: time and memory of the export; ``None``: another script made it, and may have trained before.
    """

    form: Form
    file: Path
    macs: float
    single: bool
    took: Usage | None

    @cached_property
    def sha256(self) -> str:
        """Hash of the file."""
        return sha256(self.file)


def exported(form: Form, folder: Path, batch: int, threads: int, provider: str = "cpu") -> Made:
    """Export in a process of its own; one export serves all settings that its graph does not depend on."""
    measured = AUTO in form.command
    grouped = measured or ROUTED in form.command  # by prototype, where it takes more than one image
    return _exported(form, folder, batch if grouped else 1, threads if measured else 1, provider)


@cache
def _exported(form: Form, folder: Path, batch: int, threads: int, provider: str) -> Made:
    model = hashlib.sha256(f"{form} {batch} {threads}".encode()).hexdigest()[:16]
    if form.script is not None:
        command = [str(Path(__file__).with_name(form.script)), *form.command]
        command += ["--out", str(folder / model)]
    else:
        command = ["-m", "penstock.cli", "export", *form.command]
        command += [] if form.precision == "fp32" else ["--precision", form.precision]
        command += ["--repository", str(folder), "--name", model, "--max-batch", str(batch)]
        command += ["--batch", str(batch), "--threads", str(threads), "--provider", provider]
    try:
        took = usage([sys.executable, *command])
    except subprocess.CalledProcessError:
        raise SystemExit(f"export failed: {shlex.join(command)}") from None
    if form.script is not None:
        share = json.loads((folder / model / "about.json").read_text(encoding="utf-8"))["macs"]
        return Made(form, folder / model / "model.onnx", share, False, None)
    bundle = read_bundle(folder / model / "1")
    about = bundle.manifest
    return Made(form, bundle.model_file, about.executed_macs, about.single, took)


def shown(network: dict[str, Any], count: int, batch: int = 1) -> npt.NDArray[np.uint8]:
    """Images to time with: of a data set those whose paths together cost what all do on average.

    Args:
        network: of ``speed.toml``.
        count: how many, but no fewer than `LEAST_IMAGES` of a data set.
        batch: how many are timed at a time.

    Returns:
        ``[N, C, H, W]``.
    """
    if "data" not in network:
        return synthetic_images(count, (3, network["size"], network["size"]))
    taken = representative(costs(network["paths"], network["data"]), max(count, LEAST_IMAGES), batch=batch)
    return data.load(network["data"]).test.images[taken]


@cache
def costs(source: str, name: str) -> npt.NDArray[np.float32]:
    """Share of the dense MACs that a source's paths of a data set's test images ask for, ``[N]``."""
    checkpoint, _ = load_source(source)
    return answer(checkpoint.network, data.load(name).test.images).active_macs


def with_batch(content: bytes, count: int) -> bytes:
    """The same graph for batches of one size only: OpenVINO 2026.4 gives other answers at int8 where it is free."""
    model = onnx.load_model_from_string(content)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = count  # takes the place of the name
    fixed: bytes = model.SerializeToString()
    return fixed


def accuracy(made: Made, network: dict[str, Any]) -> float | None:
    """Share of the test images that a bundle's file gets right; nothing where the weights are random."""
    if "data" not in network:
        return None
    test = data.load(network["data"]).test
    graph = open_graph(made.file, single=made.single, threads=cores())
    got = graph.run(test.images)[LOGITS]
    return float((got.argmax(1) == test.labels).mean())
