"""What a pass is, and a report of what passes did and why they left something alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

import onnx_ir as ir

from penstock.manifest import PassRecord


@dataclass
class Effect:
    """What one run of a pass did.

    Attributes:
        changed: names of layers or nodes that it changed.
        declined: why it left others alone, by name.
    """

    changed: list[str] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, why: str | None) -> None:
        """Add one place: changed, or left alone if there is a reason."""
        if why is None:
            self.changed.append(name)
        else:
            self.declined[name] = why


class Pass(Protocol):
    """A rewrite of one graph, in place, after which it answers as before; the class says by which rule, and when not.

    Attributes:
        name: what it does.
    """

    name: str

    def __call__(self, graph: ir.Graph) -> Effect:
        """Rewrite ``graph``."""


class Report:
    """What passes did, over all the graphs of a model that they ran on."""

    def __init__(self) -> None:
        self._changed: Counter[str] = Counter()
        self._declined: dict[str, Counter[str]] = {}

    def run(self, step: Pass, graph: ir.Graph) -> None:
        """Run a pass and remember what it did."""
        effect = step(graph)
        self._changed[step.name] += len(effect.changed)
        self._declined.setdefault(step.name, Counter()).update(effect.declined.values())

    def skip(self, name: str, why: str) -> None:
        """Remember that a pass had nothing to do here at all."""
        self._declined.setdefault(name, Counter())[why] += 0

    def copy(self) -> Report:
        """Another report that begins with this one's entries."""
        other = Report()
        other._changed.update(self._changed)
        other._declined = {name: counts.copy() for name, counts in self._declined.items()}
        return other

    @property
    def records(self) -> tuple[PassRecord, ...]:
        """One entry for each pass, in the order in which they ran."""
        return tuple(
            PassRecord(name=name, changed=self._changed[name], declined=dict(reasons))
            for name, reasons in self._declined.items()
        )
