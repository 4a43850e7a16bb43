"""When ONNX Runtime's arenas give memory back.

An arena keeps the memory that runs took, so that the next run need not ask the system for it: without more ado a
server stays as large as its largest batch ever made it. Giving everything back after every run costs time where large
batches follow each other (a quarter more for a batch of 8 of ResNet-18 at 224x224 on the CPU, one thread: the system
clears what it hands out). So memory is given back when the last runs did not need it.
"""

from __future__ import annotations

from collections import deque
from threading import Lock

from penstock.service.tensors import Tensors

WINDOW = 32
"""Runs that tell what is usual."""

SHRINK = "memory.enable_memory_arena_shrinkage"
"""ONNX Runtime's option of a run, with the arenas that give back what nothing uses when it ends."""


class Shrinking:
    """Tells which runs are to give memory back; may be asked from many threads at once.

    A run does so if the arena may hold more than any of the `WINDOW` runs before it needed: because it is larger
    itself, or because a larger one was longer ago.
    """

    def __init__(self) -> None:
        self._last: deque[int] = deque(maxlen=WINDOW)
        self._held = 0  # size of the largest run since memory was given back
        self._lock = Lock()

    def due(self, size: int) -> bool:
        """Whether the run that is about to begin gives memory back when it ends.

        Args:
            size: bytes of its inputs, to which what it takes inside is in proportion.
        """
        with self._lock:
            usual = max(self._last, default=0)
            self._last.append(size)
            self._held = max(self._held, size)
            if self._held <= usual:
                return False
            self._held = 0
            return True


def size_of(inputs: Tensors) -> int:
    """Bytes of a run's inputs; of texts, those of the references to them."""
    size = 0
    for values in inputs.values():
        size += values.nbytes
    return size
