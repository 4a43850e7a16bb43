"""What a training changes in the process that it runs in: only deterministic algorithms, and no hints of Lightning's.

The caller's process gets its own choices back; a process that was started for the training keeps them until it ends.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch

LOGGERS = ("lightning.pytorch", "lightning.fabric")
HINTS = (
    ".*does not have many workers.*",  # the images are in memory
    ".*exists and is not empty.*",  # a run that goes on finds its own files
    ".*LeafSpec.*",  # inside Lightning, of PyTorch's private tree utilities
)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Only deterministic algorithms, and afterwards whatever the process had chosen."""
    chosen = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    _determine()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(chosen)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's hints from the user's terminal: on devices, tips, workers for data that are in memory."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            _silence()
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def settle_in() -> None:
    """The same for good, in a process of which the training is all there is."""
    _determine()
    _silence()


def _determine() -> None:
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory only costs time: nothing here reads what was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _silence() -> None:
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for hint in HINTS:
        warnings.filterwarnings("ignore", message=hint)
