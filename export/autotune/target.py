"""What a graph is to be fast on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a graph is to be fast on.

    Attributes:
        provider: one of `penstock.export.autotune.engines.PROVIDERS`.
        batch: images in one request.
        threads: of one run on the CPU.
    """

    provider: str = "cpu"
    batch: int = 1
    threads: int = 1
