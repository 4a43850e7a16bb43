"""One ONNX Runtime session for one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from penstock.errors import BundleError
from penstock.service.devices import CUDA, FATAL_ONLY, Device
from penstock.service.tensors import BY_ONNX, Datatype, Tensors


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph.

    Attributes:
        name: tensor name.
        onnx: ONNX Runtime's name of its type.
        shape: ``-1`` for a dimension that the graph leaves open.
    """

    name: str
    onnx: str
    shape: tuple[int, ...]

    @property
    def datatype(self) -> Datatype | None:
        """The protocol's datatype; ``None`` for one that the protocol or this server lacks."""
        return BY_ONNX.get(self.onnx)

    def __str__(self) -> str:
        return f"{self.onnx} {list(self.shape)}"


class Session:
    """Runs a graph; may be called from many threads at once.

    Args:
        file: the ONNX file.
        device: where to run.
        threads: threads of one run.

    Raises:
        BundleError: ONNX Runtime refuses the file.
    """

    def __init__(self, file: Path, device: Device, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL_ONLY
        # Threads that spin while they wait for work would starve the other models of this server.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=device.providers, enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
            raise BundleError(f"{file} is refused by ONNX Runtime: {error}") from error
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = FATAL_ONLY
        self.inputs = tuple(map(_graph_tensor, self._session.get_inputs()))
        self.outputs = tuple(map(_graph_tensor, self._session.get_outputs()))

    @property
    def on_cuda(self) -> bool:
        """Whether the session really runs on a CUDA device."""
        return CUDA in self._session.get_providers()

    def stop(self) -> None:
        """End running runs at their next operator, and refuse new ones."""
        self._run_options.terminate = True

    def run(self, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        """Run the graph once.

        Args:
            inputs: arrays as the graph takes them, by name.
            outputs: names of those to compute, at least one.

        Returns:
            The outputs by name, in the order asked for.
        """
        values = self._session.run(list(outputs), inputs, self._run_options)
        return dict(zip(outputs, values, strict=True))


def _graph_tensor(node: Any) -> GraphTensor:
    return GraphTensor(node.name, node.type, tuple(dim if isinstance(dim, int) else -1 for dim in node.shape))
