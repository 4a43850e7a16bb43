"""Runs models: numpy in, numpy out, and nothing of gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter_ns
from typing import NamedTuple

from penstock.bundle import INPUT, OUTPUTS
from penstock.service.answers import Answer
from penstock.service.flags import Flags
from penstock.service.model import Model
from penstock.service.repository import Repository
from penstock.service.runs import Piece, joined
from penstock.service.shared_memory import Place
from penstock.service.telemetry import Telemetry
from penstock.service.tensors import Tensors
from penstock.service.times import Times
from penstock.service.tracing import NoTracer, Tracer


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An output that a request asks for.

    Attributes:
        name: of the output.
        classes: how many of its largest values to name instead of giving all; 0 for all.
        place: where in shared memory to put it; ``None`` for the response.
    """

    name: str
    classes: int = 0
    place: Place | None = None


class Work(NamedTuple):
    """What a request asks of a model, checked.

    Attributes:
        inputs: arrays as the graph takes them, any values, NaN and infinities included.
        rows: size of the batch; 1 for a model without batch dimension.
        outputs: what to answer with, each output once.
        id: the client's name for the request; may be empty.
        priority: level of the request where the model has levels, 1 first; 0 for the model's default.
        timeout: seconds that it may wait where the model lets a request say so; 0 for what the model says.
    """

    inputs: Tensors
    rows: int
    outputs: tuple[Wanted, ...]
    id: str = ""
    priority: int = 0
    timeout: float = 0.0


class Engine:
    """Runs the models of a repository.

    Args:
        repository: the loaded models.
        telemetry: is told what was found about images.
        flags: take note of every bundle's answer.
        tracer: makes spans of the phases; by default none.
    """

    def __init__(
        self,
        repository: Repository,
        telemetry: Telemetry,
        flags: Flags,
        tracer: Tracer | NoTracer | None = None,
    ) -> None:
        self.repository = repository
        self._telemetry = telemetry
        self._flags = flags
        self._tracer = tracer or NoTracer()

    async def infer(self, model: Model, work: Work) -> tuple[Tensors, Times]:
        """Answer a request, its rows in order.

        Its runs are counted as they end, whatever becomes of it; its answer is by whoever sends it.

        Args:
            model: one of the repository's.
            work: the request, checked.

        Returns:
            The outputs asked for, of a bundle all that its contract has; and how long it took.

        Raises:
            OverloadedError: too many requests are waiting, or this one has waited too long.
            FlaggedError: images are flagged, and the model's policy is to refuse such requests.
        """
        names = model.computed(tuple([output.name for output in work.outputs]))
        rows = _rows(work.inputs, work.rows) if model.single else [work.inputs]
        pieces = [Piece(inputs, work.rows // len(rows), names) for inputs in rows]
        arrived = perf_counter_ns()
        parts = await model.scheduler.run(pieces, priority=work.priority, timeout=work.timeout)
        times = Times.of(arrived, work.rows, parts)
        self._tracer.ran(times)
        tensors = joined([run.outputs for run in times.runs])
        if model.paths is not None:
            with self._tracer.phase("detect"):
                answer = Answer(**{name: tensors[name] for name in OUTPUTS})
                model.profile.record(answer)
                self._telemetry.flagged(model.name, model.version, answer)
                self._flags.note(model, work.id, work.inputs[INPUT], answer)
        return tensors, times


def _rows(inputs: Tensors, count: int) -> list[Tensors]:
    """The rows of a batch one by one, each still with a batch dimension."""
    return [{name: values[row : row + 1] for name, values in inputs.items()} for row in range(count)]
