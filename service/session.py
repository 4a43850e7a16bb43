"""One ONNX Runtime session for one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from penstock.errors import BundleError
from penstock.service.arenas import SHRINK, Shrinking, size_of
from penstock.service.brevity import may_loop
from penstock.service.devices import CUDA, FATAL_ONLY, Device
from penstock.service.tensors import BY_ONNX, Array, Datatype, Tensors


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph.

    Attributes:
        name: tensor name.
        onnx: ONNX Runtime's name of its type.
        shape: ``-1`` for a dimension that the graph leaves open.
        symbols: a dimension's name in the graph, where ONNX Runtime knows one: as declared, or as it follows from the
            inputs. Dimensions of one name are of one size. Empty for a fixed dimension and for a nameless one.
    """

    name: str
    onnx: str
    shape: tuple[int, ...]
    symbols: tuple[str, ...]

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
        shrinks: whether memory is given back that the last runs did not need.

    Attributes:
        inputs: of the graph.
        outputs: of the graph.
        has_texts: whether some of them are texts.
        may_loop: whether its runs may take any time, as the values say.
        on_cuda: whether it really runs on a CUDA device.

    Raises:
        BundleError: ONNX Runtime refuses the file, or its tensors or their dimensions have names that are no text.
    """

    def __init__(self, file: Path, device: Device, threads: int, *, shrinks: bool = True) -> None:
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
        self.may_loop = may_loop(file)
        try:
            self.inputs = tuple(map(_graph_tensor, self._session.get_inputs()))
            self.outputs = tuple(map(_graph_tensor, self._session.get_outputs()))
        except UnicodeDecodeError as error:  # ONNX Runtime takes names of any bytes
            raise BundleError(f"{file} has names that are no text: {error}") from error
        self.on_cuda = CUDA in self._session.get_providers()
        self._shrinking = Shrinking() if shrinks else None
        self._keeping_options = _run_options()
        self._shrinking_options = _run_options(shrunk="cpu:0;gpu:0" if self.on_cuda else "cpu:0")
        kinds = [tensor.datatype for tensor in (*self.inputs, *self.outputs)]
        self.has_texts = any(kind is not None and kind.is_text for kind in kinds)
        self._run = run_bound if self.on_cuda and not self.has_texts else run_plain

    def stop(self) -> None:
        """End running runs at their next operator, and refuse new ones."""
        self._keeping_options.terminate = self._shrinking_options.terminate = True

    def run(self, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        """Run the graph once.

        Args:
            inputs: arrays as the graph takes them, by name.
            outputs: names of those to compute, at least one.

        Returns:
            The outputs by name, in the order asked for.
        """
        shrinks = self._shrinking is not None and self._shrinking.due(size_of(inputs))
        options = self._shrinking_options if shrinks else self._keeping_options
        return dict(zip(outputs, self._run(self._session, inputs, outputs, options), strict=True))


def run_plain(session: Any, inputs: Tensors, outputs: Sequence[str], options: Any) -> list[Array]:
    """Run a session of ONNX Runtime; values of the outputs in their order."""
    values: list[Array] = session.run(list(outputs), inputs, options)
    return values


def run_bound(session: Any, inputs: Tensors, outputs: Sequence[str], options: Any) -> list[Array]:
    """The same with inputs laid on the session's device before the run, in memory of its arena; no texts.

    Works on every device, and gains where the device has memory of its own.
    """
    binding = session.io_binding()
    for name, values in inputs.items():
        binding.bind_cpu_input(name, values)
    for name in outputs:
        binding.bind_output(name)
    session.run_with_iobinding(binding, options)
    found: list[Array] = binding.copy_outputs_to_cpu()
    return found


def _run_options(*, shrunk: str = "") -> onnxruntime.RunOptions:
    """Options of a run, after which the arenas of these devices give memory back."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = FATAL_ONLY
    if shrunk:
        options.add_run_config_entry(SHRINK, shrunk)
    return options


def _graph_tensor(node: Any) -> GraphTensor:
    return GraphTensor(
        node.name,
        node.type,
        shape=tuple(dim if isinstance(dim, int) else -1 for dim in node.shape),
        symbols=tuple(dim if isinstance(dim, str) else "" for dim in node.shape),
    )
