"""What runs a graph while it is measured: ONNX Runtime on CPU or GPU, or OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
import onnxruntime as ort

from penstock.bundle import INPUT
from penstock.errors import UnsupportedError
from penstock.export.engine_errors import ENGINE_ERRORS, told

REMEDY = "take another --provider or --lowering"

Feed = Mapping[str, npt.NDArray[Any]]
PROVIDERS = ("cpu", "cuda", "openvino")
OPENVINO = {
    "openvino": "f32",
    "openvino-bf16": "bf16",
}  # what it computes in; bf16 is its own choice where it can


class Runnable(Protocol):
    """A loaded graph that can be timed."""

    def run_batch(self, feed: Feed) -> None:
        """Run one batch, whatever it takes, and drop the answer."""


@dataclass(frozen=True)
class Loaded:
    """A graph in some engine.

    Attributes:
        run: runs it once.
        single: whether it takes exactly one image at a time.
    """

    run: Callable[[Feed], object]
    single: bool

    def run_batch(self, feed: Feed) -> None:
        """Run one batch, image by image where the graph wants that."""
        if not self.single:
            self.run(feed)
            return
        for row in range(len(feed[INPUT])):
            self.run({INPUT: feed[INPUT][row : row + 1]})


def load(content: bytes, provider: str, *, single: bool, threads: int) -> Loaded:
    """Load a graph.

    Args:
        content: the ONNX file's.
        provider: one of `PROVIDERS`, or for a comparison of `OPENVINO`.
        single: whether it takes exactly one image at a time.
        threads: of one run on the CPU.

    Raises:
        UnsupportedError: the provider is not here, or cannot load this graph; running it raises the same.
    """
    if provider in OPENVINO:
        return Loaded(_openvino(content, threads, OPENVINO[provider]), single)
    names = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    name = names[provider]
    if name not in ort.get_available_providers():
        raise UnsupportedError(
            f"this ONNX Runtime has no {name}: install the GPU build, or take --provider cpu"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(content, options, providers=[name])
    except ENGINE_ERRORS as error:
        raise told(UnsupportedError, f"{name} cannot load this graph", error, REMEDY) from error
    if name not in session.get_providers():
        raise UnsupportedError(f"{name} cannot be used on this machine: is there a GPU, with its libraries?")

    def run(feed: Feed) -> object:
        try:
            return session.run(None, feed)
        except ENGINE_ERRORS as error:
            raise told(UnsupportedError, f"{name} cannot run this graph", error, REMEDY) from error

    return Loaded(run, single)


def _openvino(content: bytes, threads: int, precision: str) -> Callable[[Feed], object]:
    try:
        import openvino
    except ImportError as error:
        raise UnsupportedError("OpenVINO is not installed: pip install 'penstock[openvino]'") from error
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    try:
        compiled = core.compile_model(core.read_model(content), "CPU", settings)
    except RuntimeError as error:
        raise _refused_by_openvino(error) from error

    def run(feed: Feed) -> object:
        try:
            return compiled(dict(feed))
        except RuntimeError as error:
            raise _refused_by_openvino(error) from error

    return run


def _refused_by_openvino(error: RuntimeError) -> UnsupportedError:
    reason = str(error).splitlines()[-1]
    return UnsupportedError(f"OpenVINO cannot run this graph: {reason}: {REMEDY}")
