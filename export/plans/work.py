"""What happens in a worker process: one entry after the other, each told to the parent.

The process ends when its parent does, however that ended, and leaves Ctrl-C to the parent. PyTorch is imported with the
first entry, after the number of threads is set.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import TYPE_CHECKING

from penstock.errors import PenstockError
from penstock.export.plans.outcome import MADE, THERE, Outcome, failed, of_bundle

if TYPE_CHECKING:
    from penstock.export.options import ExportOptions

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def serve(connection: Connection, threads: int, scratch: str) -> None:
    """Do what comes through the connection until it is closed.

    Options come in; a `str` for every line about how it goes and at last one `Outcome` go out.

    Args:
        connection: to the parent.
        threads: this worker's share.
        scratch: folder for temporary files.
    """
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, str(threads))
    tempfile.tempdir = scratch
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where a library lets it through again
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            options = connection.recv()
        except EOFError:
            return
        connection.send(make(options, connection.send))


def make(options: ExportOptions, say: Callable[[str], None]) -> Outcome:
    """Make one bundle, unless it stands already."""
    from penstock.bundle import INPUTS_FILE
    from penstock.export.plans.inputs import inputs_of, standing, to_json

    start = time.perf_counter()
    try:
        inputs = inputs_of(options)
        bundle, result = standing(options, inputs), THERE
        if bundle is None:
            from penstock.export.pipeline import export

            bundle, result = export(options, say, also={INPUTS_FILE: to_json(inputs)}), MADE
        return of_bundle(bundle, options, result, time.perf_counter() - start)
    except (PenstockError, OSError) as error:
        message = str(error)
    except Exception as error:  # a fault of ours: the others go on, and it is told in full
        message = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    return failed(options, time.perf_counter() - start, message)


def _leave(*_: int | FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would hit the cleaning up
    sys.exit(1)  # so that what was begun is cleaned up


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
