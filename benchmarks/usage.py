"""Run a command and print, as JSON, how many seconds it took and how many MB of memory at its peak.

    python benchmarks/usage.py COMMAND ...

A process of its own, because what a system counts as a program's peak begins with the memory of whoever started it, and
a benchmark that has loaded a data set is large.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        seconds: from beginning to end.
        peak_mb: its largest resident memory.
    """

    seconds: float
    peak_mb: float


def usage(command: Sequence[str]) -> Usage:
    """Run a command, without its output, and say what it took.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    told = subprocess.run(
        [sys.executable, __file__, *command], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    return Usage(**json.loads(told))


def main(command: Sequence[str]) -> int:
    """Run, wait, tell."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds, code = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
    if not code:
        print(json.dumps(asdict(Usage(seconds, used.ru_maxrss / 1024))))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
