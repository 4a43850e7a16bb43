"""Choose the lowering of a captured network by measuring it here, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.autotune.engines import Loaded, load
from penstock.export.autotune.measure import measure
from penstock.export.autotune.search import search
from penstock.export.autotune.stages import Choice, Tunable, tunable
from penstock.export.lowerings.lowering import Lowering
from penstock.manifest import Tuning

DENSE = "dense"
CHOSEN = "chosen"
IMAGES = 32  # paths differ, and so does their time
SECONDS = 5.0  # of the measurement against the dense network, which decides and is reported

Finish = Callable[[ir.Model, Lowering], bytes]
"""Makes a file of a lowered graph, at the precision that is wanted."""


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


def tune(
    model: ir.Model,
    images: npt.NDArray[np.uint8],
    target: Target,
    finish: Finish,
    dense: bytes,
    *,
    single: bool,
) -> tuple[Lowering, Tuning]:
    """The fastest lowering here, and what was measured to find it.

    Args:
        model: captured, before any lowering; it is not changed.
        images: ``[N, C, H, W]`` uint8, a few to measure with.
        target: what it is to be fast on.
        finish: makes a file of a lowered graph.
        dense: the file of the dense network, which everything is compared with.
        single: make routed graphs for exactly one image.

    Raises:
        UnsupportedError: no lowering can do this network on this provider.
    """
    parts = tunable(model.graph, single=single)
    reasons: list[str] = []

    def loaded(choice: Choice) -> Loaded | None:
        lowering = parts.lowering(choice)
        candidate = model.clone()
        try:
            lowering.lower(candidate)
            content = finish(candidate, lowering)
            return load(content, target.provider, single=lowering.single, threads=target.threads)
        except UnsupportedError as error:
            reasons.append(f"{lowering.name}: {error}")
            return None

    def times(choices: Mapping[str, Choice]) -> dict[str, float]:
        graphs = {name: graph for name, choice in choices.items() if (graph := loaded(choice)) is not None}
        return measure(graphs, images[:IMAGES], batch=target.batch) if graphs else {}

    try:
        choice, tried = search(len(parts.stages), parts.options, times)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error}: {'; '.join(dict.fromkeys(reasons))}") from error
    chosen = loaded(choice)
    assert chosen is not None
    baseline = load(dense, target.provider, single=False, threads=target.threads)
    last = measure({DENSE: baseline, CHOSEN: chosen}, images[:IMAGES], batch=target.batch, seconds=SECONDS)
    return parts.lowering(choice), _record(parts, choice, tried, last, target, reasons)


def _record(
    parts: Tunable,
    choice: Choice,
    tried: Mapping[str, float],
    last: Mapping[str, float],
    target: Target,
    reasons: list[str],
) -> Tuning:
    return Tuning(
        provider=target.provider,
        batch=target.batch,
        threads=target.threads,
        tried_ms=dict(tried),
        dense_ms=last[DENSE],
        chosen_ms=last[CHOSEN],
        layers=dict(parts.by_layer(choice)),
        declined=tuple(dict.fromkeys(reasons)),
    )
