"""What became of one entry of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.bundle import Bundle

if TYPE_CHECKING:
    from penstock.export.options import ExportOptions

MADE, THERE, FAILED = RESULTS = ("made", "already there", "failed")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One entry, done.

    Attributes:
        name: of the model.
        repository: where the model is, or was to be.
        source: what it was to be made from.
        result: one of `RESULTS`.
        seconds: that it took.
        version: the version folder, unless it failed.
        lowering: of the graph, as ``bundle.json`` has it.
        static: whether it is routed, but has nothing to choose.
        precision: the same.
        milliseconds: median time of one run, where ``auto`` measured.
        ratio: how many times faster than the dense network that is.
        macs: mean share of the dense MACs that the graph really executes.
        size: bytes of the graph's file.
        error: why it failed; the first line says it, further ones tell where.
    """

    name: str
    repository: str
    source: str
    result: str
    seconds: float
    version: str | None = None
    lowering: str | None = None
    static: bool = False
    precision: str | None = None
    milliseconds: float | None = None
    ratio: float | None = None
    macs: float | None = None
    size: int | None = None
    error: str | None = None

    @property
    def home(self) -> Path:
        """Folder of the model, which no other entry of a plan has."""
        return Path(self.repository) / self.name

    @property
    def speed(self) -> str:
        """How many times faster than dense, for people; empty where nothing was measured."""
        return "" if self.ratio is None else f"{self.ratio:.2f}x"


def told_name(home: Path, *, several: bool) -> str:
    """How people are told which model: by its name, which only of several repositories two can have."""
    return str(home) if several else home.name


def of_bundle(bundle: Bundle, options: ExportOptions, result: str, seconds: float) -> Outcome:
    """The outcome that a bundle on disk is."""
    manifest = bundle.manifest
    return Outcome(
        name=options.name,
        repository=str(options.repository),
        source=options.source,
        result=result,
        seconds=seconds,
        version=str(bundle.folder),
        lowering=manifest.lowering,
        static=manifest.static,
        precision=manifest.precision,
        milliseconds=None if manifest.tuning is None else manifest.tuning.chosen_ms,
        ratio=None if manifest.tuning is None else manifest.tuning.ratio,
        macs=manifest.executed_macs,
        size=bundle.model_file.stat().st_size,
    )


def failed(options: ExportOptions, seconds: float, error: str) -> Outcome:
    """The outcome of an entry of which nothing was written."""
    return Outcome(
        name=options.name,
        repository=str(options.repository),
        source=options.source,
        result=FAILED,
        seconds=seconds,
        error=error,
    )
