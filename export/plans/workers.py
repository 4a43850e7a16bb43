"""Hand entries to processes, as many at a time as are wanted, and collect what became of them.

A process does one entry after the other, because importing PyTorch takes longer than a small export. One that dies, the
system taking it for want of memory or a library crashing, fails the entry that it was at and no other: a new one takes
its place. Processes are spawned, not forked: PyTorch's threads do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

from penstock.export.options import ExportOptions
from penstock.export.plans.outcome import Outcome, failed
from penstock.export.plans.scratch import scratch_folder
from penstock.export.plans.work import serve

CONTEXT = multiprocessing.get_context("spawn")
PATIENCE = 5.0  # seconds that processes get to clean up in before they are killed


class Watcher(Protocol):
    """Is told how it goes; ``home`` is the model's folder."""

    def began(self, home: Path) -> None:
        """An entry went to a process."""

    def said(self, home: Path, line: str) -> None:
        """An entry goes on."""

    def ended(self, outcome: Outcome) -> None:
        """An entry is done."""


def run_all(entries: Sequence[ExportOptions], jobs: int, watcher: Watcher) -> Generator[Outcome]:
    """Do all entries, and yield what became of each as soon as it is done.

    Leaving the iteration, by an exception for instance, ends the processes.

    Args:
        entries: what to export.
        jobs: processes at a time, which share the cores.
        watcher: is told how it goes.
    """
    waiting = deque(entries)
    hired: list[_Worker] = []
    threads = max(1, usable_cores() // jobs)
    with scratch_folder() as scratch:
        try:
            busy: list[_Worker] = []
            while waiting or busy:
                while waiting and len(busy) < jobs:
                    hired.append(_Worker(threads, str(scratch)))
                    busy.append(hired[-1])
                    busy[-1].give(waiting.popleft(), watcher)
                for worker in _with_news(busy):
                    news = worker.listen()
                    if isinstance(news, str):
                        watcher.said(worker.options.home, news)
                        continue
                    watcher.ended(news)
                    yield news
                    if waiting and worker.alive:
                        worker.give(waiting.popleft(), watcher)
                    else:
                        busy.remove(worker)
                        worker.connection.close()
        finally:
            _stop(hired, at_work=busy)


class _Worker:
    """A process and the entry that it is at."""

    options: ExportOptions

    def __init__(self, threads: int, scratch: str) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(theirs, threads, scratch), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()  # so that the end of the process ends the connection
        self.alive = True
        self.since = 0.0

    def give(self, options: ExportOptions, watcher: Watcher) -> None:
        """Hand it an entry."""
        self.options, self.since = options, time.perf_counter()
        watcher.began(options.home)
        with suppress(BrokenPipeError):  # it died; listening will tell
            self.connection.send(options)

    def listen(self) -> str | Outcome:
        """What it says; if it died, that its entry failed."""
        try:
            news: str | Outcome = self.connection.recv()
            return news
        except (EOFError, OSError):
            self.alive = False
        self.process.join(PATIENCE)
        return failed(self.options, time.perf_counter() - self.since, _why(self.process.exitcode))


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _with_news(workers: Sequence[_Worker]) -> list[_Worker]:
    ready = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]


def _stop(workers: Sequence[_Worker], at_work: Sequence[_Worker]) -> None:
    """End all processes: idle ones by themselves, others by a signal, and what does not listen by force."""
    for worker in workers:
        if worker in at_work:
            worker.process.terminate()  # before its connection ends, which it would take for the end of its work
        worker.connection.close()
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _why(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, as the system does for want of memory: try fewer --jobs"
    if code is not None and code < 0:
        return (
            f"its process was ended by a signal ({signal.strsignal(-code)}): export it by itself to see more"
        )
    return f"its process ended with exit code {code}: export it by itself to see more"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let processes that are started here never see Ctrl-C, which is for their parent alone to deal with."""
    # The first process of a program brings a resource tracker with it, whose start lets the signal through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
