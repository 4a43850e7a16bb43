"""One run of a graph for one piece, or for several that share it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from penstock.service.session import Session
from penstock.service.tensors import Tensors


@dataclass(frozen=True)
class Piece:
    """What one run can take.

    Attributes:
        inputs: as the graph takes them.
        rows: size of the batch.
        outputs: names of the outputs to compute.
        kind: pieces of the same kind can be run together: their inputs differ in the batch at most.
    """

    inputs: Tensors
    rows: int
    outputs: tuple[str, ...]

    @property
    def kind(self) -> Hashable:
        """Names and shapes of the inputs, without batch."""
        return tuple(sorted((name, values.shape[1:]) for name, values in self.inputs.items()))


@dataclass(frozen=True)
class Run:
    """What a run gave one piece.

    Attributes:
        outputs: those that the piece asked for, and perhaps more.
        rows: of all pieces of the run.
        began_ns: when it began, of `time.perf_counter_ns`.
        input_ns: nanoseconds spent on laying inputs together.
        infer_ns: on the graph.
        output_ns: on taking outputs apart.
    """

    outputs: Tensors
    rows: int
    began_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int


class Runner:
    """Runs pieces in a session; to be called from the threads of a scheduler."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, pieces: Sequence[Piece]) -> list[Run]:
        """Run pieces of one kind together; results in their order."""
        begin = perf_counter_ns()
        inputs = joined([piece.inputs for piece in pieces])
        names = tuple(dict.fromkeys(name for piece in pieces for name in piece.outputs))
        joined_at = perf_counter_ns()
        outputs = self._session.run(inputs, names)
        ran_at = perf_counter_ns()
        parts = _split(outputs, [piece.rows for piece in pieces])
        rows = sum(piece.rows for piece in pieces)
        times = (begin, joined_at - begin, ran_at - joined_at, perf_counter_ns() - ran_at)
        return [Run(part, rows, *times) for part in parts]


def joined(parts: Sequence[Tensors]) -> Tensors:
    """Lay batches end to end."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _split(tensors: Tensors, rows: Sequence[int]) -> list[Tensors]:
    if len(rows) == 1:
        return [tensors]
    ends = np.cumsum(rows)
    return [
        {name: values[end - count : end] for name, values in tensors.items()}
        for count, end in zip(rows, ends, strict=True)
    ]
