"""What no standard protocol has, ``penstock.service.v1.PathService``: one method per remote call."""

from __future__ import annotations

from collections.abc import AsyncIterator

from penstock.service import path_messages
from penstock.service.explainer import Explainer
from penstock.service.flag_records import WATCHING, flagged_image
from penstock.service.handlers import Context
from penstock.service.repository import Repository
from penstock.service.requests import version_number
from penstock.service.v1 import paths_pb2
from penstock.service.watchers import Watchers

PATHS = paths_pb2.DESCRIPTOR.services_by_name["PathService"]


class PathServicer:
    """Questions about the paths that a served model's inputs take."""

    def __init__(self, repository: Repository, watchers: Watchers, explainer: Explainer) -> None:
        self._repository = repository
        self._watchers = watchers
        self._explainer = explainer
        repository.on_change(lambda: explainer.keep(repository.models()))

    async def GetPathProfile(
        self, request: paths_pb2.GetPathProfileRequest, context: Context
    ) -> paths_pb2.PathProfile:
        """What the recent inputs of a model looked like."""
        model = self._repository.get(request.model_name, version_number(request.model_version))
        return path_messages.path_profile(model, model.profile.summary())

    async def WatchFlags(
        self, request: paths_pb2.WatchFlagsRequest, context: Context
    ) -> AsyncIterator[paths_pb2.FlaggedImage]:
        """The images that are flagged from now on."""
        version = version_number(request.model_version)
        if request.model_name:  # a wrong name, or that of a model without flags, would be silent for ever
            self._repository.get(request.model_name, version).check_paths()
        with self._watchers.subscription(request.model_name, version) as records:
            # From now on nothing is missed, which the client may want to know.
            await context.send_initial_metadata(WATCHING)
            async for record in records:
                yield flagged_image(record)

    async def Explain(self, request: paths_pb2.ExplainRequest, context: Context) -> paths_pb2.Explanation:
        """Where the scores of images come from."""
        model = self._repository.get(request.model_name, version_number(request.model_version))
        images = path_messages.images_to_explain(request, model)
        return path_messages.explanation(request, model, await self._explainer.explain(model, images))
