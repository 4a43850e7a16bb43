"""Answers images by name of the model: numpy in, numpy out, and nothing of gRPC."""

from __future__ import annotations

from functools import partial

from penstock.service.answers import Answer, Images
from penstock.service.repository import Model, Repository
from penstock.service.telemetry import Telemetry


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

    async def infer(self, model: Model, images: Images) -> Answer:
        """Answer a batch, its images in order.

        Args:
            model: one of the repository's.
            images: ``[N, C, H, W]`` as the model takes them, ``N`` from 1 to the model's largest batch.

        Raises:
            UnavailableError: too many requests are waiting.
        """
        step = 1 if model.manifest.single else len(images)
        pieces = [images[begin : begin + step] for begin in range(0, len(images), step)]
        answers = await model.scheduler.run([partial(model.session.run, piece) for piece in pieces])
        answer = Answer.join(answers)
        model.profile.record(answer)
        self._telemetry.answered(model.name, model.version, answer, runs=len(pieces))
        return answer
