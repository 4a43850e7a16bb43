"""The way onto a Ray cluster, for all work that is done there as tasks."""

from __future__ import annotations

from typing import Any

from penstock.errors import ConfigurationError, UnavailableError

RETRIES = 3  # times that a task is begun again whose machine or process was lost


def connect(address: str) -> Any:
    """Join a cluster, whose machines see the same folders under the same names.

    Args:
        address: ``HOST:PORT`` of a cluster, ``auto`` for the one that this machine belongs to, or ``local`` for a
            new one of this machine alone.

    Returns:
        The module ``ray``, which is an optional extra and so imported here.

    Raises:
        ConfigurationError: Ray is not installed.
        UnavailableError: there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError("tasks on a cluster need Ray: pip install 'penstock[ray]'") from error
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UnavailableError(f"no Ray cluster at {address!r}: {error}") from error
    return ray
