"""From a checkpoint to a bundle: compile the candidates, take the fastest, write it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock import data
from penstock.bundle import Bundle, Manifest, write_bundle
from penstock.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from penstock.export.autotune.measure import measure
from penstock.export.compiling import (
    Compiled,
    Sample,
    capture_paths,
    compile_dense,
    compile_paths,
    versions,
)
from penstock.export.options import AUTO, LOWERINGS, ExportOptions
from penstock.export.runtime import open_graph
from penstock.files import sha256
from penstock.nn.checkpoint import Checkpoint, load_source

SYNTHETIC_IMAGES = 64
MEASURED_IMAGES = 8  # paths differ, and so does their time

Say = Callable[[str], None]


def export(
    options: ExportOptions, say: Say = lambda _: None, *, also: dict[str, str] | None = None
) -> Bundle:
    """Compile a checkpoint, check the result against PyTorch, and add it to a model repository.

    Args:
        options: what and how.
        say: told what is going on, in short lines.
        also: further text files for the version folder, by name; they appear together with the bundle.

    Raises:
        PenstockError: the source is missing or damaged, or the graph fails a check; nothing is written then.
    """
    checkpoint, origin = load_source(options.source)
    sample = _sample(checkpoint, options, say)
    if options.dense:
        say("compiling the dense network")
        return _write(checkpoint, compile_dense(checkpoint, sample), origin, {}, options, also)
    if options.flags and not checkpoint.detector:
        raise UnsupportedError(f"{options.source} holds no detector: export it with --no-flags")
    captured = capture_paths(checkpoint, sample, options.fpr if options.flags else None)
    candidates = {}
    for name in LOWERINGS if options.lowering == AUTO else (options.lowering,):
        say(f"compiling {name}")
        try:
            candidates[name] = compile_paths(captured, LOWERINGS[name]())
        except UnsupportedError as error:
            if options.lowering != AUTO:
                raise
            say(f"without {name}: {error}")
    measured = _measure(candidates, sample, options.threads) if len(candidates) > 1 else {}
    chosen = min(candidates, key=lambda name: measured.get(name, 0.0))
    if measured:
        times = ", ".join(f"{name} {milliseconds:.3f} ms" for name, milliseconds in measured.items())
        say(f"measured {times}: taking {chosen}")
    return _write(checkpoint, candidates[chosen], origin, measured, options, also)


def _sample(checkpoint: Checkpoint, options: ExportOptions, say: Say) -> Sample:
    """The data set's calibration images; where they cannot be had and nobody insists on them, synthetic ones."""
    name = str(checkpoint.config.get("data", ""))
    try:
        return Sample(data.load(name, folder=options.data).calibration.images, real=True)
    except (NotFoundError, UnsupportedError, InvalidArgumentError) as error:
        if options.data is not None:
            raise
        say(f"no images of the data set ({error}): verifying on synthetic ones, threshold from stored scores")
        return Sample(synthetic_images(SYNTHETIC_IMAGES, checkpoint.input_shape), real=False)


def synthetic_images(count: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Random squares of many sizes, colours and contrasts, ``[count, C, H, W]``.

    Noise of single pixels would do worse: its averages, which gates look at, are much the same in every image, so
    nearly all images would take nearly the same path.
    """
    draw = np.random.default_rng(0)
    channels, height, width = shape
    images = np.empty((count, *shape), np.uint8)
    for image in images:
        side = 2 ** int(draw.integers(0, 5))
        darkest, brightest = np.sort(draw.integers(0, 256, (2, channels, 1, 1)), axis=0)
        colours = (channels, -(-height // side), -(-width // side))
        squares = draw.integers(darkest, brightest + 1, colours)
        image[:] = squares.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width]
    return images


def _measure(candidates: Mapping[str, Compiled], sample: Sample, threads: int) -> dict[str, float]:
    graphs = {
        name: open_graph(compiled.content, single=compiled.single, threads=threads)
        for name, compiled in candidates.items()
    }
    return measure(graphs, sample.images[:MEASURED_IMAGES])


def _write(
    checkpoint: Checkpoint,
    compiled: Compiled,
    origin: dict[str, str],
    measured: dict[str, float],
    options: ExportOptions,
    also: dict[str, str] | None,
) -> Bundle:
    layout = checkpoint.network.layout
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(compiled.content)
        manifest = Manifest(
            model_sha256=sha256(file),
            source=origin,
            input_shape=checkpoint.input_shape,
            class_names=checkpoint.class_names,
            layout=layout,
            lowering=compiled.lowering,
            layer_lowerings={} if options.dense else dict.fromkeys(layout.names, compiled.lowering),
            measured_ms=measured,
            executed_macs=compiled.executed_macs,
            max_batch=options.max_batch,
            single=compiled.single,
            parity=asdict(compiled.parity),
            calibration=compiled.calibration,
            versions=versions(),
        )
        return write_bundle(options.repository, options.name, manifest, file, also=also)


__all__ = ["LOWERINGS", "ExportOptions", "export"]
