"""Hand entries to a Ray cluster, and collect what became of them.

The machines of the cluster see the same folders under the same names. A task whose machine is lost is begun again
elsewhere; what it had made by then stands, and is found.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from penstock.data.location import VARIABLE as DATA
from penstock.export.options import ExportOptions
from penstock.export.plans.outcome import Outcome, failed
from penstock.export.plans.work import make
from penstock.export.plans.workers import Watcher
from penstock.ray_cluster import RETRIES, connect


def run_all_on_ray(entries: Sequence[ExportOptions], address: str, watcher: Watcher) -> Generator[Outcome]:
    """Do all entries as tasks of one processor each, and yield what became of each as soon as it is done.

    Args:
        entries: what to export.
        address: ``HOST:PORT``, ``auto`` for the cluster that this machine belongs to, or ``local`` for a new one.
        watcher: is told how it goes.

    Raises:
        ConfigurationError: Ray is not installed.
        UnavailableError: there is no such cluster.
    """
    ray = connect(address)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_make)
    begun: dict[Any, tuple[ExportOptions, float]] = {}
    for options in entries:
        watcher.began(options.home)
        begun[task.remote(options, str(Path.cwd()), os.environ.get(DATA))] = options, time.perf_counter()
    while begun:
        (ended, *_), _ = ray.wait(list(begun))
        options, since = begun.pop(ended)
        try:
            outcome: Outcome = ray.get(ended)
        except ray.exceptions.RayError as error:
            outcome = failed(
                options,
                time.perf_counter() - since,
                f"its task failed, or was lost {RETRIES + 1} times: {error}",
            )
        watcher.ended(outcome)
        yield outcome


def _make(options: ExportOptions, folder: str, data: str | None) -> Outcome:
    os.chdir(folder)  # relative paths count from where the command was called
    if (
        data is not None
    ):  # and data sets are where they are there: a worker has the environment of its machine
        os.environ[DATA] = data
    return make(options, lambda line: None)
