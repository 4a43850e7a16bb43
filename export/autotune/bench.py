"""The bench on which choices are measured: their graphs are made and loaded once, and no longer kept than needed.

All candidates of a round take turns, so all of them are loaded at once; between rounds only the choice so far is.
Making a graph takes longer than measuring it, above all at a reduced precision, while lowering it is quick. So choices
that come to the same lowered graph, as in a stage that is as wide as it can be, are made and measured as one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.autotune.engines import Loaded, load
from penstock.export.autotune.measure import feeds, measure
from penstock.export.autotune.stages import Choice, Tunable
from penstock.export.autotune.target import Target
from penstock.export.lowerings.lowering import Lowering

Finish = Callable[[ir.Model, Lowering], bytes]
"""Makes a file of a lowered graph, at the precision that is wanted."""
Key: TypeAlias = tuple[str, str]  # a lowering's name, and what tells its graphs apart


class Bench:
    """Measures choices; is a `penstock.export.autotune.search.Contest`.

    Args:
        model: captured, before any lowering; it is not changed.
        parts: its stages.
        images: ``[N, C, H, W]`` uint8 to measure with.
        target: what runs the graphs.
        finish: makes a file of a lowered graph.

    Attributes:
        reasons: why choices cannot be done, in the order in which that showed.
    """

    def __init__(
        self,
        model: ir.Model,
        parts: Tunable,
        images: npt.NDArray[np.uint8],
        target: Target,
        finish: Finish,
    ) -> None:
        self.reasons: list[str] = []
        self._model = model
        self._parts = parts
        self._images = images
        self._target = target
        self._finish = finish
        self._lowered: dict[Choice, Key] = {}
        self._graphs: dict[Key, Loaded] = {}

    def measure(self, choices: Mapping[str, Choice]) -> dict[str, float]:
        """Milliseconds of choices by name, measured in turn; leaves out what cannot be done."""
        for choice in choices.values():
            self._load(choice)
        keys = {name: self._lowered[choice] for name, choice in choices.items() if choice in self._lowered}
        graphs = {str(key): self._graphs[key] for key in keys.values()}
        times = (
            measure(graphs, self._images, batch=self._target.batch, threads=self._target.threads)
            if graphs
            else {}
        )
        return {name: times[str(key)] for name, key in keys.items()}

    def distinct(self, choices: Mapping[str, Choice]) -> list[str]:
        """Of choices just measured, the names of those that can be done; of several with one graph the first."""
        names: dict[Key, str] = {}
        for name, choice in choices.items():
            if choice in self._lowered:
                names.setdefault(self._lowered[choice], name)
        return list(names.values())

    def keep(self, choice: Choice) -> None:
        """Let go of all graphs but one, which has been measured."""
        key = self._lowered[choice]
        self._lowered, self._graphs = {choice: key}, {key: self._graphs[key]}

    def graph(self, choice: Choice) -> Loaded:
        """The graph of the choice that was kept."""
        return self._graphs[self._lowered[choice]]

    def _load(self, choice: Choice) -> None:
        """Have the graph of a choice at hand, or a reason why not."""
        if choice in self._lowered:
            return
        lowering = self._parts.lowering(choice)
        candidate = self._model.clone()
        try:
            lowering.lower(candidate)
            key = (lowering.name, _digest(candidate))
            if key not in self._graphs:
                self._graphs[key] = self._made(candidate, lowering)
            self._lowered[choice] = key
        except UnsupportedError as error:
            self.reasons.append(f"{lowering.name}: {error}")

    def _made(self, candidate: ir.Model, lowering: Lowering) -> Loaded:
        """Its graph, which has run all batches once: an engine may refuse a branch only where an image takes it."""
        content, target = self._finish(candidate, lowering), self._target
        graph = load(content, target.provider, single=lowering.single, threads=target.threads)
        for feed in feeds(self._images, target.batch):
            graph.run_batch(feed)
        return graph


def _digest(model: ir.Model) -> str:
    """What two models have in common only if they are the same."""
    return hashlib.sha256(ir.serde.serialize_model(model).SerializeToString()).hexdigest()
