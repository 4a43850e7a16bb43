"""The application for ``serve run penstock.service.cluster.app:app`` and for ``serve deploy``.

`deploy/ray/serve.yaml` shows its arguments: the settings of `penstock serve` by name, and beside them ``replicas`` and
``cpus``. Every replica loads the whole repository, from a folder that all machines see.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import serve

from penstock.errors import ConfigurationError
from penstock.service.cluster.replica import Replica
from penstock.service.settings import Settings

SERVICER_FUNCTION = "penstock.service.cluster.front.add_services"
"""For Ray's ``grpc_options.grpc_servicer_functions``."""

AT_ONCE = 32
"""Requests that a replica has at a time by default; the others wait in the proxies, out of the way of its end."""

_REMEDIES = {
    "model_control_mode": "a request to load would reach one replica of many: use none or poll",
    "system_shared_memory": "clients share no memory with replicas on other machines",
    "reflection": "Ray's proxies answer it, where grpc_options has enable_reflection",
    "tls_certificate": "Ray's proxies are the servers: see RAY_SERVE_* and Ray's documentation for TLS",
}


def app(arguments: Mapping[str, Any]) -> serve.Application:
    """Make the application.

    Args:
        arguments: settings by field name; ``replicas`` (1), ``cpus`` of each (1), which is also its ``threads`` by
            default, and ``at_once`` (32), the requests that each has at a time.

    Raises:
        ConfigurationError: a setting is wrong, or has no meaning in a cluster.
    """
    given = dict(arguments)
    replicas, cpus, at_once = (
        _whole(given, name, default) for name, default in (("replicas", 1), ("cpus", 1), ("at_once", AT_ONCE))
    )
    settings = Settings.read(os.environ, **{"threads": cpus, **given})
    deployment = serve.deployment(
        Replica,
        name="penstock",
        num_replicas=replicas,
        max_ongoing_requests=at_once,
        graceful_shutdown_timeout_s=settings.grace_seconds,
        ray_actor_options={"num_cpus": cpus},
    )
    return deployment.bind(in_cluster(settings))


def in_cluster(settings: Settings) -> Settings:
    """The settings of a replica.

    Raises:
        ConfigurationError: one of them has no meaning in a cluster.
    """
    wrong = {
        "model_control_mode": settings.model_control_mode == "explicit",
        "system_shared_memory": settings.system_shared_memory,
        "reflection": settings.reflection,
        "tls_certificate": settings.tls_certificate is not None,
    }
    for name, bad in wrong.items():
        if bad:
            raise ConfigurationError(f"{name} is {getattr(settings, name)!r} in a cluster: {_REMEDIES[name]}")
    return replace(settings, metrics_port=0)  # several replicas may share a machine


def _whole(given: dict[str, Any], name: str, default: int) -> int:
    value = given.pop(name, default)
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number, 1 or more")
    return number
