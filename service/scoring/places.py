"""Where pieces of work are done: in this process, or as tasks on a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from penstock.errors import UnavailableError
from penstock.ray_cluster import RETRIES, connect
from penstock.service.scoring.images import Record, score_files
from penstock.service.scoring.plan import Score

AHEAD = 4
"""Tasks that are under way for each processor of the cluster: enough that none waits, and results stay few."""

Pieces = Sequence[tuple[Score, Sequence[str]]]


class Place(Protocol):
    """Somewhere to work."""

    def results(self, pieces: Pieces) -> Iterator[list[Record]]:
        """What `score_files` gives for each piece, in their order."""


class Here:
    """This process."""

    def results(self, pieces: Pieces) -> Iterator[list[Record]]:
        """One after the other."""
        return (score_files(score, files) for score, files in pieces)


class OnRay:
    """A cluster; its machines see the same folders.

    Args:
        address: ``HOST:PORT`` of a cluster, ``auto`` for the one that this machine belongs to, or ``local`` for a
            new one of this machine alone.

    Raises:
        ConfigurationError: Ray is not installed.
        UnavailableError: there is no such cluster.
    """

    def __init__(self, address: str) -> None:
        self._ray = connect(address)
        self._task = self._ray.remote(num_cpus=1, max_retries=RETRIES)(score_files)

    def results(self, pieces: Pieces) -> Iterator[list[Record]]:
        """As many at a time as there are processors; a lost task is begun again elsewhere."""
        most = AHEAD * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        waiting, begun = deque(pieces), deque[Any]()
        while waiting or begun:
            while waiting and len(begun) < most:
                begun.append(self._task.remote(*waiting.popleft()))
            try:
                yield self._ray.get(begun.popleft())
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None  # as it would be raised here
            except self._ray.exceptions.RayError as error:
                raise UnavailableError(f"a task was lost {RETRIES + 1} times: {error}") from error
