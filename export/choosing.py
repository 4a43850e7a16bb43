"""The lowering ``auto``: measure what can be done here, and compile the fastest form that passes its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import onnx_ir as ir

from penstock.errors import PenstockError, UnsupportedError, VerificationError
from penstock.export.autotune.measure import LEAST_BATCHES
from penstock.export.autotune.representative import representative
from penstock.export.autotune.target import Target
from penstock.export.autotune.tune import tune
from penstock.export.captured import CapturedNetwork
from penstock.export.compiling import Compiled, compile_dense, compile_paths, serialize
from penstock.export.lowerings.lowering import Lowering
from penstock.export.options import ExportOptions
from penstock.export.passes.finish import finish
from penstock.export.precision.agreement import verify_agreement
from penstock.export.precision.narrowing import narrow
from penstock.manifest import TunedStage, Tuning

TIMED_IMAGES = 32  # paths differ, and so does their time
SCALING_IMAGES = 8  # to calibrate at int8, and to check, what is only timed
WORTH_IT = 1.05  # times as fast as dense, where that would do: a ratio measured now is another tomorrow by some percent

Say = Callable[[str], None]


def fastest(
    captured: CapturedNetwork, options: ExportOptions, forms: tuple[bool, ...], say: Say
) -> tuple[Compiled, Tuning]:
    """The fastest form of a network here; where nobody asked for flags the dense one, unless another is worth it.

    Args:
        captured: the network; it stays as it was.
        options: what was asked for.
        forms: whether graphs may take exactly one image at a time, any batch, or either.
        say: told what was measured and is taken.

    Raises:
        UnsupportedError: no lowering can do this network on this provider.
        VerificationError: none that can passes its checks; that of the fastest.
    """
    # Where it cannot be taken it is a stopwatch: as candidates, which are checked only once they are chosen.
    sample = (
        captured.sample if options.dense_will_do else captured.sample.first(SCALING_IMAGES, SCALING_IMAGES)
    )
    dense = compile_dense(captured.checkpoint, sample, options.precision, checked=False)
    dense_will_do = options.dense_will_do and False in forms and _agrees(dense, say)
    tuned = _tuner(captured, options, forms, dense.content)
    say(f"measuring on {options.provider}, batch {options.batch}, threads {options.threads}")
    lowering, tuning = tuned()
    _tell(tuning, say)
    failed: PenstockError | None = None
    # If the choice fails its checks, one that is alike in all stages may not, the fastest first.
    for only in (None, *_alike(tuning)):
        if only is not None:
            lowering, again = tuned(only=only)
            tuning = replace(
                again, tried_ms=tuning.tried_ms, stages=_all(only, tuning.stages), declined=tuning.declined
            )
        if dense_will_do and tuning.ratio < WORTH_IT:
            say("taking the dense network")
            return dense, tuning.of_dense()
        say(f"taking {lowering.name}")
        try:
            return compile_paths(captured, lowering, options.precision), tuning
        except (UnsupportedError, VerificationError) as error:
            failed = failed or error
            reason = f"{lowering.name}: {error}"
            say(f"without {reason}")
            tuning = replace(tuning, declined=tuple(dict.fromkeys((*tuning.declined, reason))))
    if dense_will_do:
        say("taking the dense network: no other form passes its checks")
        return dense, tuning.of_dense()
    assert failed is not None
    raise failed


def _agrees(dense: Compiled, say: Say) -> bool:
    """Whether the dense network may be taken; it is measured against in any case."""
    try:
        if dense.agreement is not None:
            verify_agreement(dense.agreement, dense.precision)
    except VerificationError as error:
        say(f"without the dense network, but measured against it: {error}")
        return False
    return True


def _tuner(
    captured: CapturedNetwork, options: ExportOptions, forms: tuple[bool, ...], dense: bytes
) -> Callable[..., tuple[Lowering, Tuning]]:
    """Measures what can be done, and finds the fastest; ``only``: the one option that is left."""
    target = Target(provider=options.provider, batch=options.batch, threads=options.threads)

    def candidate(model: ir.Model, lowering: Lowering) -> bytes:
        if lowering.single not in forms:
            taken = "batches" if lowering.single else "single images"
            raise UnsupportedError(f"the versions of {options.name!r} that are there take {taken}")
        finished = finish(model, options.precision)
        return serialize(narrow(finished, options.precision, captured.sample.to_fit[:SCALING_IMAGES]))

    costs = captured.expected.answer.active_macs[:, 0].numpy()
    timed = representative(costs, max(TIMED_IMAGES, LEAST_BATCHES * options.batch), batch=options.batch)
    return partial(
        tune,
        captured.model,
        captured.sample.images[timed],
        target,
        candidate,
        dense,
        single=options.max_batch == 1 and True in forms,
        precision=options.precision,
    )


def _alike(tuning: Tuning) -> list[str]:
    """Options that can be done, the same in all stages, the fastest first; without the one that was chosen."""
    chosen = set(tuning.layers.values())
    return sorted((name for name in tuning.tried_ms if chosen != {name}), key=tuning.tried_ms.__getitem__)


def _all(option: str, stages: tuple[TunedStage, ...]) -> tuple[TunedStage, ...]:
    """What was measured of the stages, which now all have the same option."""
    return tuple(replace(stage, chosen=option) for stage in stages)


def _tell(tuning: Tuning, say: Say) -> None:
    """Say what was measured."""
    for reason in tuning.declined:
        say(f"without {reason}")
    times = ", ".join(f"{name} {milliseconds:.3f} ms" for name, milliseconds in tuning.tried_ms.items())
    say(f"{times}, all stages alike")
    for stage in tuning.stages:
        say(str(stage))
    say(f"tuned {tuning.chosen_ms:.3f} ms, {tuning.ratio:.2f} times as fast as dense")
