"""One run of a graph for one piece, or for several that share it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns, thread_time_ns
from typing import NamedTuple

import numpy as np

from penstock.bundle import CONFIG_FILE
from penstock.errors import OperationError
from penstock.service.brevity import Brevity
from penstock.service.line_limit import LineLimit
from penstock.service.session import Session
from penstock.service.tensors import Tensors

log = logging.getLogger(__name__)

_parted = LineLimit()


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


class Run(NamedTuple):
    """What a run gave one piece.

    Attributes:
        outputs: those that the piece asked for, and perhaps more.
        rows: of all pieces of the run.
        began_ns: when it began, of `time.perf_counter_ns`.
        input_ns: nanoseconds spent on laying inputs together.
        infer_ns: on the graph.
        output_ns: on taking outputs apart.
        first: whether the piece was the first of its run, so that counting these counts runs.
    """

    outputs: Tensors
    rows: int
    began_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    first: bool = True


class Runner:
    """Runs pieces in a session; to be called from the threads of a scheduler, or for brief runs from its loop.

    Args:
        session: the graph.
        batched: whether the first dimension of every tensor is the batch.
    """

    def __init__(self, session: Session, *, batched: bool) -> None:
        self._session = session
        self._batched = batched
        self._brevity = Brevity()
        self._predictable = not (session.has_texts or session.may_loop or session.on_cuda)

    def brief(self, piece: Piece) -> bool:
        """Whether a run of this piece will take no longer than handing it to a thread.

        Never of texts, of which the shapes do not tell how long they are, nor in a graph with loops, nor on a GPU,
        which works while the event loop goes on.
        """
        if not self._predictable:
            return False
        return self._brevity.expected(_shapes(piece.inputs))

    def __call__(self, pieces: Sequence[Piece]) -> list[Run | Exception]:
        """Run pieces of one kind together, or one by one where that fails, so that each fails for itself alone.

        Returns:
            What became of each piece, in their order.
        """
        try:
            return [*self._together(pieces)]
        except Exception as error:  # whatever a graph raises
            if len(pieces) == 1:
                return [error]
            _log_parted(len(pieces), error)
        return [outcome for piece in pieces for outcome in self([piece])]

    def _together(self, pieces: Sequence[Piece]) -> list[Run]:
        begin = perf_counter_ns()
        inputs = joined([piece.inputs for piece in pieces])
        names, rows = pieces[0].outputs, pieces[0].rows
        if len(pieces) > 1:
            names = tuple(dict.fromkeys(name for piece in pieces for name in piece.outputs))
            rows = sum(piece.rows for piece in pieces)
        joined_at = perf_counter_ns()
        outputs = self._run(inputs, names)
        ran_at = perf_counter_ns()
        if self._batched:
            _check_rows(outputs, rows)
        first, *others = _split(outputs, [piece.rows for piece in pieces])
        ended_at = perf_counter_ns()
        run = Run(first, rows, begin, joined_at - begin, ran_at - joined_at, ended_at - ran_at)
        return [run, *(run._replace(outputs=part, first=False) for part in others)]

    def _run(self, inputs: Tensors, names: tuple[str, ...]) -> Tensors:
        begin = thread_time_ns()
        try:
            return self._session.run(inputs, names)
        finally:
            self._brevity.ran(_shapes(inputs), thread_time_ns() - begin)


def _shapes(inputs: Tensors) -> Hashable:
    return tuple([values.shape for values in inputs.values()])


def _log_parted(count: int, error: Exception) -> None:
    left_out = _parted.admit()
    if left_out is not None:
        others = f" (and {left_out} without a line)" if left_out else ""
        log.info("a run that %d requests shared failed, and is done one by one%s: %s", count, others, error)


def joined(parts: Sequence[Tensors]) -> Tensors:
    """Lay batches end to end."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_rows(outputs: Tensors, rows: int) -> None:
    """Refuse outputs that are not row by row those of the inputs, lest one be taken for another's."""
    for name, values in outputs.items():
        if values.shape[:1] != (rows,):
            raise OperationError(
                f"output {name!r} has shape {list(values.shape)} for a batch of {rows}, so that its first dimension "
                f"is not the batch; describe the model's inputs and outputs in its {CONFIG_FILE}, "
                "with max_batch_size: 0"
            )


def _split(tensors: Tensors, rows: Sequence[int]) -> list[Tensors]:
    if len(rows) == 1:
        return [tensors]
    ends = np.cumsum(rows)
    return [
        {name: values[end - count : end] for name, values in tensors.items()}
        for count, end in zip(rows, ends, strict=True)
    ]
