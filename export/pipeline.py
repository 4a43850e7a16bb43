"""From a checkpoint to a bundle: capture, choose a lowering, compile, check, write."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict

from penstock.bundle import DETECTOR_FILE, Bundle, Interface, Manifest
from penstock.bundle_writing import write_bundle
from penstock.detect.tables import tables_to_bytes
from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.export.captured import capture_paths, settled
from penstock.export.choosing import fastest
from penstock.export.compiling import (
    Compiled,
    compile_dense,
    compile_observed,
    compile_paths,
    versions,
    with_byte_input,
)
from penstock.export.options import AUTO, LOWERINGS, ExportOptions
from penstock.export.passes.drop_closed import DropClosedFilters
from penstock.export.passes.merge_open import MergeOpenFilters
from penstock.export.precision.agreement import warning_of
from penstock.export.sample import Sample, sample_of
from penstock.export.source import load
from penstock.files import sha256
from penstock.manifest import FP32, Tuning
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.observing import observed_checkpoint, watched_checkpoint
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.sub_architectures import sub_architectures_file
from penstock.nn.surgery import GatedNetwork
from penstock.nn.unobserved import unobserved_checkpoint
from penstock.standing_config import edited, misfit, refuse_misfit

UNSETTLED = "gates stay as they were learned: --settle was not given"
NO_GATES = "no gates: what a prototype leaves closed is left out of it anyway"

Say = Callable[[str], None]


def export(
    options: ExportOptions, say: Say = lambda _: None, *, also: dict[str, str] | None = None
) -> Bundle:
    """Compile a checkpoint, check the result against PyTorch, and add it to a model repository.

    Args:
        options: what and how.
        say: told what is going on, in short lines.
        also: further text files for the version folder, by name; they appear together with the bundle.

    Raises:
        PenstockError: the source is missing or damaged, or the graph fails a check; nothing is written then.
    """
    checkpoint, origin = load(options.source, options.class_name, options.member, detector=options.flagging)
    if options.observe:
        say("fitting a detector to what the gates see of the dense network")
        checkpoint = observed_checkpoint(checkpoint, options.data)
    if options.gates is not None:
        say("fitting a detector to what the gates see beside the routers")
        gates, its = load(options.gates)
        checkpoint, origin = (
            watched_checkpoint(checkpoint, gates, options.data),
            origin | {"gates": its["sha256"]},
        )
    if options.sub_architectures is not None:
        masks = sub_architectures_file(options.sub_architectures)
        origin |= {"sub_architectures": sha256(masks)} if masks.is_file() else {}
    if not options.flagging and not options.dense and options.class_name is None:
        checkpoint = unobserved_checkpoint(checkpoint)
    if options.flagging and not checkpoint.detector:
        raise UnsupportedError(f"{options.source} holds no detector: export it with --no-flags")
    forms = _forms(checkpoint, options, say)
    sample = sample_of(checkpoint, options.data, say)
    _refuse_made_up_images(checkpoint, sample, options.precision)
    if options.settle:
        _refuse_to_settle(checkpoint, sample, options)
    compiled, tuning = _compile(checkpoint, sample, options, forms, say)
    if options.input_type == "uint8":
        compiled = with_byte_input(compiled, sample)
    for record in (*compiled.passes, *compiled.choices):
        say(str(record))
    if compiled.agreement is not None:
        warning = warning_of(compiled.agreement, compiled.precision)
        if warning is not None:
            say(warning)
    return _write(checkpoint, compiled, origin, tuning, options, also)


def _forms(checkpoint: Checkpoint, options: ExportOptions, say: Say) -> tuple[bool, ...]:
    """Whether the graph will take exactly one image at a time: those answers that fit the versions already there.

    Raises:
        InvalidArgumentError: nothing that was asked for does.
    """
    called = [
        Interface(
            input_shape=checkpoint.input_shape,
            input_type=options.input_type,
            class_names=checkpoint.class_names,
            bits=checkpoint.network.layout.bits,
            max_batch=options.max_batch,
            single=single,
        )
        for single in options.forms
    ]
    fitting = [each for each in called if misfit(options.home, each) is None]
    if not fitting:
        refuse_misfit(options.home, called[0])
    for file in edited(options.home, fitting[0]):
        say(f"{file} was edited: it stays as it is, and this version goes by it")
    return tuple(each.single for each in fitting)


def _refuse_to_settle(checkpoint: Checkpoint, sample: Sample, options: ExportOptions) -> None:
    """Gates are settled by what real images do to them."""
    if not _has_gates(checkpoint):
        raise UnsupportedError("only gates can be settled; the filters of a prototype are so already")
    if not sample.real:
        raise InvalidArgumentError(
            f"settling {options.source} needs images of its data set: name their folder (--data)"
        )


def _has_gates(checkpoint: Checkpoint) -> bool:
    """Whether gates decide, not prototypes or a cascade."""
    network = checkpoint.network
    return isinstance(network, GatedNetwork) and not isinstance(network, ConsolidatedNetwork)


def _compile(
    checkpoint: Checkpoint, sample: Sample, options: ExportOptions, forms: tuple[bool, ...], say: Say
) -> tuple[Compiled, Tuning | None]:
    """What was asked for, and what was measured to choose it."""
    fitting = (options.detector, options.data, options.sub_architectures)
    if options.observe:
        say("compiling the dense network with observers")
        captured = capture_paths(checkpoint, sample, options.fpr, *fitting)
        return compile_observed(captured, options.precision), None
    if options.dense:
        say("compiling the dense network")
        return compile_dense(checkpoint, sample, options.precision), None
    say("capturing the network")
    fpr = options.fpr if options.flagging else None
    captured = capture_paths(checkpoint, sample, fpr, *fitting)
    if options.settle:
        captured = settled(captured)
    else:
        for step in (DropClosedFilters, MergeOpenFilters):
            captured.report.skip(step.name, UNSETTLED if _has_gates(checkpoint) else NO_GATES)
    if options.lowering != AUTO:
        say(f"compiling {options.lowering}")
        lowering = LOWERINGS[options.lowering](single=options.max_batch == 1, precision=options.precision)
        return compile_paths(captured, lowering, options.precision), None
    return fastest(captured, options, forms, say)


def _refuse_made_up_images(checkpoint: Checkpoint, sample: Sample, precision: str) -> None:
    """Of a network that answers something, reduced precision is calibrated and checked on real images only."""
    if precision != FP32 and not sample.real and "timing" not in checkpoint.config:
        raise UnsupportedError(
            f"{precision} is calibrated and checked on the data set's images, which are not at hand: name their "
            "folder with --data or PENSTOCK_DATA, or keep --precision fp32"
        )


def _write(
    checkpoint: Checkpoint,
    compiled: Compiled,
    origin: dict[str, str],
    tuning: Tuning | None,
    options: ExportOptions,
    also: dict[str, str] | None,
) -> Bundle:
    tables: dict[str, bytes] = {}
    if compiled.explained is not None:
        tables[DETECTOR_FILE] = tables_to_bytes(compiled.explained)
    manifest = Manifest(
        model_sha256=hashlib.sha256(compiled.content).hexdigest(),
        source=origin,
        input_shape=checkpoint.input_shape,
        input_type=options.input_type,
        class_names=checkpoint.class_names,
        layout=checkpoint.network.layout,
        lowering=compiled.lowering,
        passes=compiled.passes,
        choices=compiled.choices,
        tuning=tuning,
        executed_macs=compiled.executed_macs,
        precision=compiled.precision,
        max_batch=options.max_batch,
        single=compiled.single,
        parity=asdict(compiled.parity),
        agreement=compiled.agreement,
        calibration=compiled.calibration,
        versions=versions(),
        files={name: hashlib.sha256(content).hexdigest() for name, content in tables.items()},
    )
    files: dict[str, str | bytes] = {**tables, **(also or {})}
    return write_bundle(options.repository, options.name, manifest, compiled.content, also=files)


__all__ = ["ExportOptions", "export"]
