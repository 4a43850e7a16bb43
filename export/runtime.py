"""Run an exported graph in ONNX Runtime, as it will be served, to check it and to calibrate its detector."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from penstock.bundle import INPUT, OUTPUTS, Bundle
from penstock.errors import UnsupportedError, VerificationError
from penstock.export.engine_errors import ENGINE_ERRORS, told

REMEDY = "export it with another --lowering"
BATCH = 250  # images per run, where the graph takes more than one

Outputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Graph:
    """An exported graph, loaded.

    Attributes:
        session: ONNX Runtime's session on one CPU.
        single: whether it takes exactly one image at a time.
    """

    session: ort.InferenceSession
    single: bool

    @property
    def takes_bytes(self) -> bool:
        """Whether it takes pixels as uint8 rather than float32 in 0..1."""
        return str(self.session.get_inputs()[0].type) == "tensor(uint8)"

    def run_batch(self, feed: Mapping[str, npt.NDArray[Any]]) -> None:
        """Run one batch, image by image where the graph wants that, and drop the answer."""
        images = feed[INPUT]
        for part in np.split(images, len(images)) if self.single else [images]:
            self.session.run(None, {INPUT: part})

    def run(
        self,
        images: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
        batch: int = BATCH,
        more: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> Outputs:
        """Answers for many images.

        Args:
            images: ``[N, C, H, W]`` uint8, or float32 from 0 to 1, which a graph that takes bytes gets rounded.
            batch: images per run, where the graph takes more than one; another number may add in another order.
            more: other inputs, the same in every run.

        Returns:
            Every output by name, ``[N, ...]``.

        Raises:
            VerificationError: ONNX Runtime breaks off; names the node.
        """
        step = 1 if self.single else batch
        pieces = []
        for start in range(0, len(images), step):
            pixels = images[start : start + step]
            pieces.append(self._answered({INPUT: self._fed(pixels), **(more or {})}))
        return {
            name: np.concatenate(parts)
            for name, parts in zip(OUTPUTS, zip(*pieces, strict=True), strict=True)
        }

    def _answered(self, feed: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        try:
            answers: list[npt.NDArray[Any]] = self.session.run(list(OUTPUTS), feed)
        except ENGINE_ERRORS as error:
            raise told(VerificationError, "ONNX Runtime cannot run the graph", error, REMEDY) from error
        return answers

    def _fed(self, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """As the graph takes them."""
        if pixels.dtype == np.uint8:
            return pixels if self.takes_bytes else pixels.astype(np.float32) / np.float32(255)
        return np.rint(pixels * np.float32(255)).astype(np.uint8) if self.takes_bytes else pixels


def open_graph(file: Path | bytes, *, single: bool, threads: int = 0) -> Graph:
    """Load an ONNX file, or its content, on the CPU.

    Args:
        file: path or serialised model.
        single: whether it takes exactly one image at a time.
        threads: of one run; 0: what ``OMP_NUM_THREADS`` says, or as many as there are cores.

    Raises:
        UnsupportedError: this ONNX Runtime cannot load it; names the node.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    # ONNX Runtime's own threads do not heed the variable, by which several processes share a machine.
    options.intra_op_num_threads = threads or _openmp_threads()
    model = file if isinstance(file, bytes) else str(file)
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except ENGINE_ERRORS as error:
        raise told(UnsupportedError, "ONNX Runtime cannot load the graph", error, REMEDY) from error
    return Graph(session, single)


def _openmp_threads() -> int:
    """What ``OMP_NUM_THREADS`` says, of a list such as ``4,2`` the outermost level; 0 where it says nothing."""
    first, *_ = os.environ.get("OMP_NUM_THREADS", "").split(",")
    return int(first) if first.strip().isdecimal() else 0


def open_bundle(bundle: Bundle, *, threads: int) -> Graph:
    """Load a bundle's graph on the CPU."""
    return open_graph(bundle.model_file, single=bundle.manifest.single, threads=threads)
