"""Graphs in ONNX Runtime with inputs and outputs on the device, and replayed as CUDA graphs where shapes allow.

With IOBinding nothing is copied between host and device while a run is timed. A CUDA graph records all kernels of a run
and launches them at once: so nothing may depend on values, neither which branch runs nor how large a tensor is, and
inputs and outputs stay where they are. Dense networks and static prototypes of a fixed batch are like that; graphs that
choose, by ``If`` or by indices that they find, are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from penstock.bundle import INPUT, LOGITS

CUDA, CPU = "cuda", "cpu"
PROVIDERS = {CUDA: "CUDAExecutionProvider", CPU: "CPUExecutionProvider"}
TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}
# What makes shapes, or the choice of what runs, depend on values.
DEPENDING = frozenset({"If", "Loop", "Scan", "NonZero", "Compress", "Unique"})

Feed = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Bound:
    """A graph that is ready to run.

    Attributes:
        runs: one for each batch.
        logits: of the first batch, ``[N, classes]``.
        cuda_graph: whether runs replay a CUDA graph.
    """

    runs: tuple[Callable[[], object], ...]
    logits: npt.NDArray[np.float32]
    cuda_graph: bool


def bind(file: Path, feeds: Sequence[Feed], device: str, *, single: bool) -> Bound:
    """Load a graph and bind it to batches that lie on the device.

    Args:
        file: the ONNX file.
        feeds: the batches.
        device: `CUDA` or `CPU`.
        single: the graph takes one image at a time.
    """
    if device == CUDA and not single and is_fixed(onnx.load(file)):
        try:
            # All runs replay one recording, which has one place for its input: what such a graph takes does not
            # depend on the images.
            return _bound(file, [feeds[0]] * len(feeds), device, single=False, cuda_graph=True)
        except Exception as error:  # whatever the provider cannot record, it says when it loads or runs
            print(f"{file.parent.name}: no CUDA graph ({str(error).splitlines()[0]})")
    return _bound(file, feeds, device, single=single, cuda_graph=False)


def is_fixed(model: onnx.ModelProto) -> bool:
    """Whether a graph does the same for all inputs of a shape."""
    return not DEPENDING & {node.op_type for node in model.graph.node}


def _bound(file: Path, feeds: Sequence[Feed], device: str, *, single: bool, cuda_graph: bool) -> Bound:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    provider = (PROVIDERS[device], {"enable_cuda_graph": "1"} if cuda_graph else {})
    session = ort.InferenceSession(file, options, providers=[provider])
    known: dict[int, Any] = {}
    runs = []
    for feed in feeds:
        if id(feed) not in known:
            parts = _images(feed) if single else [feed]
            known[id(feed)] = [_binding(session, part, device) for part in parts]
        runs.append(_runner(session, known[id(feed)]))
    for _ in range(2):  # the first run of a CUDA graph records it
        runs[0]()
    first = known[id(feeds[0])]
    place = [output.name for output in session.get_outputs()].index(LOGITS)
    logits = np.concatenate([binding.get_outputs()[place].numpy() for binding in first])
    return Bound(tuple(runs), logits, cuda_graph)


def _images(feed: Feed) -> Iterator[Feed]:
    for row in range(len(feed[INPUT])):
        yield {INPUT: feed[INPUT][row : row + 1]}


def _binding(session: ort.InferenceSession, feed: Feed, device: str) -> Any:
    """Inputs and outputs of one run, all on the device, the outputs at fixed places."""
    binding = session.io_binding()
    batch = len(feed[INPUT])
    binding.bind_ortvalue_input(INPUT, ort.OrtValue.ortvalue_from_numpy(feed[INPUT], device, 0))
    for output in session.get_outputs():
        shape = [size if isinstance(size, int) else batch for size in output.shape]
        value = ort.OrtValue.ortvalue_from_shape_and_type(shape, TYPES[output.type], device, 0)
        binding.bind_ortvalue_output(output.name, value)
    return binding


def _runner(session: ort.InferenceSession, bindings: Sequence[Any]) -> Callable[[], None]:
    def run() -> None:
        for binding in bindings:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

    return run
