"""The processes that a training runs in: how many, only deterministic algorithms, and no hints of Lightning's.

On one device the training runs in the caller's process, which gets its own choices back. On several, every device has
a process that ends with the training: one reads what they wrote and goes on in the caller's process, alone.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy

from penstock.errors import InvalidArgumentError

LOGGERS = ("lightning.pytorch", "lightning.fabric")
HINTS = (
    ".*does not have many workers.*",  # the images are in memory
    ".*exists and is not empty.*",  # a run that goes on finds its own files
    ".*LeafSpec.*",  # inside Lightning, of PyTorch's private tree utilities
    ".*Grad strides do not match bucket view strides.*",  # of convolutions that read one channel
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


def check_devices(devices: int, batch_size: int) -> None:
    """Refuse a number of devices that cannot share a training.

    Raises:
        InvalidArgumentError: there are not so many, or a batch is too small for them.
    """
    if devices < 1:
        raise InvalidArgumentError(f"devices is {devices}; at least 1 is needed")
    present = torch.cuda.device_count()
    if present and devices > present:
        raise InvalidArgumentError(f"devices is {devices}; this machine has {present}")
    if devices > 1 and batch_size < 2 * devices:  # a batch norm needs two images
        raise InvalidArgumentError(
            f"a batch of {batch_size} is too small for {devices} devices: each needs at least 2 images of it"
        )


def strategy(devices: int) -> Strategy | str:
    """How Lightning runs a training on so many devices."""
    # Processes of the training's own: the default would start the whole command anew for each device.
    return _OwnProcesses(start_method="spawn") if devices > 1 else "auto"


class _OwnProcesses(DDPStrategy):
    """Processes that from their first moment behave as the one that started them."""

    def setup_environment(self) -> None:
        _determine()
        _silence()
        super().setup_environment()


def _determine() -> None:
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory only costs time: nothing here reads what was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _silence() -> None:
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for hint in HINTS:
        warnings.filterwarnings("ignore", message=hint)
