"""What became of one entry of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.bundle import Bundle

MADE, THERE, FAILED = RESULTS = ("made", "already there", "failed")
DENSE = "dense"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One entry, done.

    Attributes:
        name: of the model.
        source: what it was to be made from.
        result: one of `RESULTS`.
        seconds: that it took.
        version: the version folder, unless it failed.
        lowering: of the graph, as ``bundle.json`` has it.
        measured_ms: median time of each lowering, one image, where ``auto`` chose.
        macs: mean share of the dense MACs that the graph really executes.
        size: bytes of the graph's file.
        error: why it failed; the first line says it, further ones tell where.
    """

    name: str
    source: str
    result: str
    seconds: float
    version: str | None = None
    lowering: str | None = None
    measured_ms: dict[str, float] = field(default_factory=dict)
    macs: float | None = None
    size: int | None = None
    error: str | None = None

    @property
    def speed(self) -> str:
        """How many times faster than dense, or else how long, for people; empty where nothing was measured."""
        mine, dense = self.measured_ms.get(self.lowering or ""), self.measured_ms.get(DENSE)
        if not mine:
            return ""
        return f"{dense / mine:.2f}x" if dense else f"{mine:.3f} ms"


def of_bundle(bundle: Bundle, *, name: str, source: str, result: str, seconds: float) -> Outcome:
    """The outcome that a bundle on disk is."""
    manifest = bundle.manifest
    return Outcome(
        name=name,
        source=source,
        result=result,
        seconds=seconds,
        version=str(bundle.folder),
        lowering=manifest.lowering,
        measured_ms=manifest.measured_ms,
        macs=manifest.executed_macs,
        size=bundle.model_file.stat().st_size,
    )
