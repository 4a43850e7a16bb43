"""From a checkpoint to a bundle: capture, lower, calibrate, verify, write."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from penstock import data
from penstock.bundle import Bundle, Calibration, Manifest, check_name, write_bundle
from penstock.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from penstock.export.calibrate import calibration_of, set_threshold
from penstock.export.capture import capture, tidy
from penstock.export.contract import DenseModel, ServedModel
from penstock.export.gathered import Gathered
from penstock.export.head import DetectorHead
from penstock.export.lowering import Lowering
from penstock.export.masked import Masked
from penstock.export.measure import measure
from penstock.export.runtime import open_graph
from penstock.export.verify import Parity, reference, verify, verify_extremes
from penstock.files import sha256
from penstock.nn.checkpoint import Checkpoint, load_source

LOWERINGS: dict[str, Callable[[], Lowering]] = {"masked": Masked, "gathered": Gathered}
AUTO = "auto"
DENSE = "dense"
SYNTHETIC_IMAGES = 64

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and how.

    Attributes:
        source: a run folder, a checkpoint file, or ``zoo:NAME``.
        repository: model repository to write to.
        name: model name in it.
        dense: export the network as it was before it got gates, under the same contract.
        lowering: ``masked``, ``gathered``, or ``auto``: whichever is faster here.
        flags: compute anomaly scores and flags.
        fpr: promised false-positive rate.
        data: folder of the data set; by default what ``PENSTOCK_DATA`` says.
        max_batch: largest batch of one request.
        threads: of the measurement that ``auto`` decides by.
    """

    source: str
    repository: Path
    name: str
    dense: bool = False
    lowering: str = AUTO
    flags: bool = True
    fpr: float = 0.05
    data: Path | None = None
    max_batch: int = 32
    threads: int = 1

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.lowering not in (AUTO, *LOWERINGS):
            raise InvalidArgumentError(
                f"no lowering {self.lowering!r}; there are {AUTO}, {', '.join(LOWERINGS)}"
            )
        if not 0 < self.fpr < 1:
            raise InvalidArgumentError(f"fpr is {self.fpr}; a false-positive rate lies between 0 and 1")
        if self.max_batch < 1 or self.threads < 1:
            raise InvalidArgumentError(
                f"max_batch is {self.max_batch} and threads {self.threads}; at least 1 each"
            )


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """One candidate: a finished graph that agrees with PyTorch.

    Attributes:
        lowering: its name.
        single: whether it takes exactly one image at a time.
        model: the graph.
        content: the same, serialised.
        parity: how well it agrees.
        calibration: how its threshold was set, if it flags.
    """

    lowering: str
    single: bool
    model: ir.Model
    content: bytes
    parity: Parity
    calibration: Calibration | None


def export(options: ExportOptions, say: Say = lambda _: None) -> Bundle:
    """Compile a checkpoint, check the result against PyTorch, and add it to a model repository.

    Args:
        options: what and how.
        say: told what is going on, in short lines.

    Raises:
        PenstockError: the source is missing or damaged, or the graph fails a check; nothing is written then.
    """
    checkpoint, origin = load_source(options.source)
    if options.flags and not options.dense and not checkpoint.detector:
        raise UnsupportedError(f"{options.source} holds no detector: export it with --no-flags")
    images = _images(checkpoint, options, say)
    names = [DENSE] if options.dense else list(LOWERINGS) if options.lowering == AUTO else [options.lowering]
    candidates = {}
    for name in names:
        say(f"compiling {name}")
        candidates[name] = _compile(checkpoint, name, options, images)
    chosen, measured = names[0], {}
    if len(candidates) > 1:
        graphs = {
            name: open_graph(c.content, single=c.single, threads=options.threads)
            for name, c in candidates.items()
        }
        measured = measure({name: graph.session for name, graph in graphs.items()}, images.sample[:8])
        chosen = min(measured, key=lambda name: measured[name])
        say(
            "measured "
            + ", ".join(f"{name} {ms:.3f} ms" for name, ms in measured.items())
            + f": taking {chosen}"
        )
    return _write(checkpoint, candidates[chosen], origin, measured, options)


@dataclass(frozen=True)
class _Images:
    """What to check and calibrate on: real images the network never saw, or synthetic ones to check with only."""

    sample: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    real: bool


def _images(checkpoint: Checkpoint, options: ExportOptions, say: Say) -> _Images:
    name = str(checkpoint.config.get("data", ""))
    try:
        return _Images(data.load(name, folder=options.data).calibration.images, real=True)
    except (NotFoundError, UnsupportedError, InvalidArgumentError) as error:
        if options.data is not None:
            raise
        say(f"no images of the data set ({error}): verifying on synthetic ones, threshold from stored scores")
        shape = (SYNTHETIC_IMAGES, *checkpoint.input_shape)
        return _Images(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), real=False)


def _compile(checkpoint: Checkpoint, name: str, options: ExportOptions, images: _Images) -> Compiled:
    layout = checkpoint.network.layout
    if name == DENSE:
        lowering, flags = None, False
        served: ServedModel | DenseModel = DenseModel(checkpoint.dense, layout)
    else:
        lowering, flags = LOWERINGS[name](), options.flags
        served = ServedModel(checkpoint.network, DetectorHead(checkpoint.detector) if flags else None)
    model = capture(served.eval(), checkpoint.input_shape)
    if lowering is not None and isinstance(served, ServedModel):
        verify_extremes(model, served, lowering, images.sample[:4])
        lowering.lower(model)
    tidy(model)
    single = lowering is not None and lowering.single
    got = open_graph(_serialize(model), single=single).run(images.sample)
    parity = verify(reference(served, images.sample), got, layout)
    calibration = None
    if flags:
        scores = got["anomaly_score"][:, 0] if images.real else checkpoint.calibration
        calibration = calibration_of(scores, options.fpr, "graph" if images.real else "stored")
        set_threshold(model, calibration.threshold)
    _describe(model, checkpoint, name, calibration)
    content = _serialize(model)
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    return Compiled(
        lowering=name, single=single, model=model, content=content, parity=parity, calibration=calibration
    )


def _describe(
    model: ir.Model, checkpoint: Checkpoint, lowering: str, calibration: Calibration | None
) -> None:
    """Let the file speak for itself where no manifest travels with it."""
    about = {
        "layout": checkpoint.network.layout.to_json(),
        "class_names": checkpoint.class_names,
        "lowering": lowering,
        "calibration": None if calibration is None else asdict(calibration),
        "versions": _versions(),
    }
    model.producer_name = "penstock"
    model.producer_version = version("penstock")
    model.metadata_props.update({f"penstock.{key}": json.dumps(value) for key, value in about.items()})


def _write(
    checkpoint: Checkpoint,
    compiled: Compiled,
    origin: dict[str, str],
    measured: dict[str, float],
    options: ExportOptions,
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
            layer_lowerings={}
            if options.dense
            else {layer.name: compiled.lowering for layer in layout.layers},
            measured_ms=measured,
            max_batch=options.max_batch,
            single=compiled.single,
            parity=asdict(compiled.parity),
            calibration=compiled.calibration,
            versions=_versions(),
        )
        return write_bundle(options.repository, options.name, manifest, file)


def _serialize(model: ir.Model) -> bytes:
    return ir.serde.serialize_model(model).SerializeToString()


def _versions() -> dict[str, str]:
    packages = ("penstock", "torch", "onnx", "numpy")
    return {name: version(name) for name in packages} | {"onnxruntime": onnxruntime.__version__}
