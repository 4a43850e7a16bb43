"""The command that compiles: one export, or all that a plan asks for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.cli.options import SOURCE, Commands, add_data, add_ray, say

if TYPE_CHECKING:
    from penstock.manifest import Manifest


def add(commands: Commands) -> None:
    """Add it."""
    # No defaults here: what is not given is left to ExportOptions, or to the plan.
    export = commands.add_parser(
        "export",
        help="compile a checkpoint to ONNX and add it to a model repository, or do all that a plan asks for",
        argument_default=argparse.SUPPRESS,
    )
    export.add_argument("source", nargs="?", metavar="SOURCE", help=SOURCE)
    export.add_argument("--repository", type=Path, metavar="DIR")
    export.add_argument("--name", help="model name in the repository")
    add_data(export)
    _add_part(export.add_argument_group("which network of the source, if not the whole"))
    _add_form(export.add_argument_group("how it runs"))
    _add_flags(export.add_argument_group("flags"))
    _add_tuning(export.add_argument_group("what auto measures"))
    _add_plan(
        export.add_argument_group(
            "many exports",
            "instead of SOURCE and --name; --repository and --data then count for the whole plan",
        )
    )
    export.set_defaults(run=lambda parsed: _export(export, parsed))


def _add_part(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="only this class's sub-architecture; SOURCE is a disentanglement's run folder then",
    )
    group.add_argument(
        "--member", metavar="WHICH", help="of a cascade, only its first or its second network, without flags"
    )
    group.add_argument("--dense", action="store_true", help="the network as it was before it got gates")
    group.add_argument(
        "--settle",
        action="store_true",
        help="take away gates that all calibration images, or none, open (with --no-flags)",
    )


def _add_form(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--lowering", help="auto (default: whatever is fastest here), masked, gathered or routed"
    )
    group.add_argument("--precision", metavar="P", help="fp32 (default), int8 or, for GPUs, fp16")
    group.add_argument(
        "--input",
        dest="input_type",
        metavar="TYPE",
        help="fp32 (default; values from 0 to 1) or uint8 (pixels from 0 to 255)",
    )
    group.add_argument("--max-batch", type=int, metavar="N", help="largest batch of one request (32)")


def _add_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--no-flags", dest="flags", action="store_false", help="leave detector and observers out"
    )
    group.add_argument("--fpr", type=float, metavar="RATE", help="promised false-positive rate (0.05)")
    group.add_argument(
        "--detector",
        metavar="D",
        help="PART[+PART...], their mean, or minimum:, harmonic: or fisher: before them, by p-values; parts are "
        "path-likelihood, gate-mahalanobis, disagreement, doubt, router-gate and sub-architecture (default: the "
        "source's own)",
    )
    group.add_argument(
        "--sub-architectures",
        type=Path,
        metavar="RUN",
        help="of `penstock disentangle`, for a detector with the part sub-architecture",
    )
    group.add_argument(
        "--observe",
        action="store_true",
        help="with --dense: the gates look on, change no answer, and a detector flags by what they see",
    )
    group.add_argument(
        "--gates",
        metavar="RUN",
        help="of a consolidated SOURCE: the decoupled run that it was made from; its gates look on beside the routers",
    )


def _add_tuning(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--provider", metavar="P", help="cpu (default), cuda or openvino")
    group.add_argument("--batch", type=int, metavar="N", help="images in one run (1)")
    group.add_argument("--threads", type=int, metavar="T", help="of one run on the CPU (1)")


def _add_plan(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--plan", type=Path, metavar="FILE", help="TOML, see configs/plans/")
    group.add_argument("--jobs", type=int, metavar="N", help="processes at a time (half as many as cores)")
    group.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    add_ray(group)


def _export(command: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    given = {key: value for key, value in vars(parsed).items() if key not in ("command", "run")}
    if "plan" in given:
        return _export_plan(command, **given)
    for option in ("jobs", "json", "ray"):
        if option in given:
            command.error(f"--{option} goes with --plan")
    if not {"source", "repository", "name"} <= given.keys():
        command.error("name SOURCE, --repository and --name, or a --plan")

    from penstock.export.pipeline import ExportOptions, export

    bundle = export(ExportOptions(**given), say)
    manifest = bundle.manifest
    print(f"{bundle.folder}: {manifest.form}, {_speed(manifest)}{_closeness(manifest)}")
    return 0


def _speed(manifest: Manifest) -> str:
    """What ``auto`` found, if it was asked."""
    if manifest.tuning is None:
        return ""
    if manifest.lowering == "dense":
        return "since nothing else was faster here, "
    return f"{manifest.tuning.ratio:.2f} times as fast as dense here, "


def _closeness(manifest: Manifest) -> str:
    """How well a bundle agrees with what it was made from."""
    found = manifest.agreement
    if found is None:
        return f"largest difference to PyTorch {manifest.parity['max_abs']:.1e}"
    same = (
        ""
        if found.top1_agreement is None
        else f"the same class for {found.top1_agreement:.2%} of the images, "
    )
    bits = f"{found.same_bits:.2%} of the path bits, " if manifest.lowering != "dense" else ""
    return f"{manifest.precision}: beside float32 {same}{bits}logits off by {found.logit_error:.2%}"


def _export_plan(
    command: argparse.ArgumentParser,
    plan: Path,
    jobs: int | None = None,
    json: Path | None = None,
    repository: Path | None = None,
    data: Path | None = None,
    ray: str | None = None,
    **others: object,
) -> int:
    if others:
        command.error(f"{', '.join(others)} cannot stand beside --plan: write that into the plan")

    from penstock.export.plans.batch import run_plan

    return run_plan(plan, jobs=jobs, repository=repository, data=data, json_file=json, ray=ray)
