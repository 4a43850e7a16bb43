"""Choose the lowering of a captured network by measuring it here, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from penstock.errors import UnsupportedError
from penstock.export.autotune.bench import Bench, Finish
from penstock.export.autotune.engines import load
from penstock.export.autotune.measure import measure
from penstock.export.autotune.search import Found, search
from penstock.export.autotune.stages import Tunable, tunable
from penstock.export.autotune.target import Target
from penstock.export.lowerings.lowering import Lowering
from penstock.manifest import FP32, TunedStage, Tuning

DENSE = "dense"
CHOSEN = "chosen"
SECONDS = 5.0  # of the measurement against the dense network, which decides and is reported


def tune(
    model: ir.Model,
    images: npt.NDArray[np.uint8],
    target: Target,
    finish: Finish,
    dense: bytes,
    *,
    single: bool,
    precision: str = FP32,
    only: str | None = None,
) -> tuple[Lowering, Tuning]:
    """The fastest lowering here, and what was measured to find it.

    Args:
        model: captured, before any lowering; it is not changed.
        images: ``[N, C, H, W]`` uint8, a few to measure with, see `penstock.export.autotune.representative`.
        target: what it is to be fast on.
        finish: makes a file of a lowered graph.
        dense: the file of the dense network, which everything is compared with.
        single: make routed graphs for exactly one image.
        precision: of what is measured.
        only: the one option that is left, for all stages.

    Raises:
        UnsupportedError: no lowering can do this network on this provider.
    """
    parts = tunable(model.graph, single=single, precision=precision)
    bench = Bench(model, parts, images, target, finish)
    try:
        found = search(len(parts.stages), parts.options if only is None else (only,), bench)
    except UnsupportedError as error:
        raise UnsupportedError(f"{error}: {'; '.join(dict.fromkeys(bench.reasons))}") from error
    baseline = load(dense, target.provider, single=False, threads=target.threads)
    both = {DENSE: baseline, CHOSEN: bench.graph(found.choice)}
    last = measure(both, images, batch=target.batch, threads=target.threads, seconds=SECONDS)
    return parts.lowering(found.choice), _record(parts, found, last, target, bench.reasons)


def _record(
    parts: Tunable, found: Found, last: Mapping[str, float], target: Target, reasons: Sequence[str]
) -> Tuning:
    stages = zip(parts.stages, found.rounds, found.choice, strict=True)
    return Tuning(
        provider=target.provider,
        batch=target.batch,
        threads=target.threads,
        tried_ms=found.uniform,
        stages=tuple(
            TunedStage(layers=layers, tried_ms=times, chosen=chosen) for layers, times, chosen in stages
        ),
        dense_ms=last[DENSE],
        chosen_ms=last[CHOSEN],
        layers=dict(parts.by_layer(found.choice)),
        declined=tuple(dict.fromkeys(reasons)),
    )
