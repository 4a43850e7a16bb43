"""What ``penstock serve`` and ``penstock infer`` do.

The command line parses, calls these, and prints the errors that they raise.

Heavy imports stand inside the functions, so that other commands do not wait for them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.service import logs
from penstock.service.settings import Settings

if TYPE_CHECKING:
    from penstock.service.credentials import Credentials


def serve(settings: Settings) -> int:
    """Serve a model repository until the process is told to stop.

    Prints one line with the bound ports to stdout once it answers; logs go to stderr.

    Returns:
        0 after an orderly shutdown. A signal that comes while models are loaded ends the process.

    Raises:
        PenstockError: the server cannot start; the message says why.
    """
    from penstock.service.server import serve_until_stopped

    logs.set_up(settings.log_level, settings.log_format)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_worth_a_line)
    serve_until_stopped(settings, _announce)
    return 0


def infer(
    url: str,
    model: str,
    images: Sequence[Path],
    *,
    timeout: float = 30.0,
    credentials: Credentials | None = None,
) -> int:
    """Ask a running server about image files and print a table.

    Args:
        url: ``HOST:PORT`` of the server.
        model: model name.
        images: PNG or JPEG files, at least one.
        timeout: seconds that one request may take.
        credentials: for servers that ask for some.

    Returns:
        0, flagged or not.

    Raises:
        PenstockError: a file is no image, or the server refuses; the message says why.
    """
    import numpy as np

    from penstock.service import client
    from penstock.service.answers import Answer, Images
    from penstock.service.credentials import Credentials
    from penstock.service.images import answers_table, print_table, read_images

    given = credentials or Credentials()
    info = client.model_info(url, model, timeout=timeout, credentials=given)
    batch: Images = read_images(images, info.input_shape)
    if info.input_type != "uint8":
        batch = batch.astype(np.float32) / np.float32(255)
    parts = [
        client.infer(url, model, batch[begin : begin + info.max_batch], timeout=timeout, credentials=given)
        for begin in range(0, len(batch), info.max_batch)
    ]
    print_table(answers_table(images, Answer.join(parts), info.class_names))
    return 0


def watch(
    url: str, model: str = "", *, count: int | None = None, credentials: Credentials | None = None
) -> int:
    """Print flagged images as they come, until there is an end to it.

    Args:
        url: ``HOST:PORT`` of the server.
        model: only this model's; empty: all models'.
        count: end after so many; ``None``: never.
        credentials: for servers that ask for some.

    Returns:
        0 after ``count`` images.

    Raises:
        PenstockError: the server cannot be reached, stops, or refuses; the message says why.
    """
    from itertools import islice

    from rich.console import Console

    from penstock.service.client import PathClient
    from penstock.service.credentials import Credentials
    from penstock.service.watching import print_records

    with PathClient(url, credentials=credentials or Credentials()) as paths:
        print_records(islice(paths.watch_flags(model), count), Console())
    return 0


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether gRPC reports something else than a client that went away while its answer was being sent."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def _announce(summary: str) -> None:
    sys.stdout.write(f"{summary}\n")
    sys.stdout.flush()
