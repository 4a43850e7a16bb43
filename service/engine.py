"""Runs models: numpy in, numpy out, and nothing of gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from penstock.bundle import OUTPUTS
from penstock.service.answers import Answer
from penstock.service.model import Model
from penstock.service.repository import Repository
from penstock.service.telemetry import Telemetry
from penstock.service.tensors import Tensors


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a request asks of a model, checked.

    Attributes:
        inputs: arrays as the graph takes them, any values, NaN and infinities included.
        rows: size of the batch; 1 for a model without batch dimension.
        outputs: names of the outputs to answer with, each once.
    """

    inputs: Tensors
    rows: int
    outputs: tuple[str, ...]


class Engine:
    """Runs the models of a repository.

    Args:
        repository: the loaded models.
        telemetry: is told of every run.
    """

    def __init__(self, repository: Repository, telemetry: Telemetry) -> None:
        self.repository = repository
        self._telemetry = telemetry
        for name in repository.names:
            for version in repository.ready_versions(name):
                model = repository.get(name, version)
                telemetry.watch_queue(name, version, model.scheduler)

    async def infer(self, model: Model, work: Work) -> Tensors:
        """Answer a request, its rows in order.

        Args:
            model: one of the repository's.
            work: the request, checked.

        Returns:
            The outputs asked for; of a bundle, all that its contract has.

        Raises:
            UnavailableError: too many requests are waiting.
        """
        names = model.computed(work.outputs)
        pieces = _rows(work) if model.single else [work.inputs]
        parts = await model.scheduler.run([partial(model.session.run, piece, names) for piece in pieces])
        tensors = parts[0] if len(parts) == 1 else _joined(parts)
        if model.paths is not None:
            answer = Answer(**{name: tensors[name] for name in OUTPUTS})
            model.profile.record(answer)
            self._telemetry.flagged(model.name, model.version, answer)
        self._telemetry.answered(model.name, model.version, rows=work.rows, runs=len(pieces))
        return tensors


def _rows(work: Work) -> list[Tensors]:
    """The rows of a batch one by one, each still with a batch dimension."""
    return [{name: values[row : row + 1] for name, values in work.inputs.items()} for row in range(work.rows)]


def _joined(parts: list[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
