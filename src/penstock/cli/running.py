"""Commands that run what was trained: demo, export, server and client."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from penstock import __version__
from penstock.cli.options import SOURCE, Commands, add_data, say
from penstock.service.settings import Settings

if TYPE_CHECKING:
    from penstock.service.credentials import Credentials

_EXPLAINED = (
    "model_repository",
    "model_control_mode",
    "repository_poll_secs",
    "load_model",
    "host",
    "grpc_port",
    "metrics_port",
    "require_gpu",
    "threads",
    "log_level",
)

if TYPE_CHECKING:
    from penstock.manifest import Manifest


def add(commands: Commands) -> None:
    """Add them all."""
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)

    demo = commands.add_parser(
        "demo", help="the main job end to end: learn, export, serve, attack, and print what was measured"
    )
    demo.add_argument("--data", default="digits", help="digits (default; trains first) or cifar10")
    demo.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    demo.add_argument(
        "--picture", type=Path, metavar="FILE", help="PNG to write (default penstock-demo-DATA.png)"
    )
    demo.set_defaults(run=_demo)

    _add_export(commands)
    _add_serve(commands)
    _add_score(commands)

    infer = commands.add_parser("infer", help="ask a running server about image files")
    infer.add_argument("--url", default="127.0.0.1:8001", metavar="HOST:PORT")
    infer.add_argument("--model", required=True, metavar="NAME")
    infer.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")
    infer.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    _add_credentials(infer)
    infer.set_defaults(run=_infer)

    watch = commands.add_parser("watch", help="show a running server's flagged images as they come")
    watch.add_argument("--url", default="127.0.0.1:8001", metavar="HOST:PORT")
    watch.add_argument("--model", default="", metavar="NAME", help="only this model's (all)")
    watch.add_argument("--count", type=int, metavar="N", help="end after so many (never)")
    _add_credentials(watch)
    watch.set_defaults(run=_watch)


def _add_export(commands: Commands) -> None:
    # No defaults here: what is not given is left to ExportOptions, or to the plan.
    export = commands.add_parser(
        "export",
        help="compile a checkpoint to ONNX and add it to a model repository, or do all that a plan asks for",
        argument_default=argparse.SUPPRESS,
    )
    export.add_argument("source", nargs="?", metavar="SOURCE", help=SOURCE)
    export.add_argument("--repository", type=Path, metavar="DIR")
    export.add_argument("--name", help="model name in the repository")
    export.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="only this class's sub-architecture; SOURCE is a disentanglement's run folder then",
    )
    export.add_argument(
        "--member", metavar="WHICH", help="of a cascade, only its first or its second network, without flags"
    )
    export.add_argument("--dense", action="store_true", help="the network as it was before it got gates")
    export.add_argument(
        "--observe",
        action="store_true",
        help="with --dense: the gates look on, change no answer, and a detector flags by what they see",
    )
    export.add_argument(
        "--lowering", help="auto (default: whatever is fastest here), masked, gathered or routed"
    )
    export.add_argument("--precision", metavar="P", help="fp32 (default), int8 or, for GPUs, fp16")
    export.add_argument(
        "--detector",
        metavar="D",
        help="PART[+PART...], their mean, or minimum:, harmonic: or fisher: before them, by p-values; parts are "
        "path-likelihood, gate-mahalanobis, disagreement, doubt and router-gate (default: "
        "minimum:gate-mahalanobis+doubt where there are observers, else path-likelihood+gate-mahalanobis)",
    )
    export.add_argument(
        "--gates",
        metavar="RUN",
        help="of a consolidated SOURCE: the decoupled run that it was made from; its gates look on beside the routers",
    )
    export.add_argument("--no-flags", dest="flags", action="store_false", help="leave the detector out")
    export.add_argument(
        "--settle",
        action="store_true",
        help="take away gates that all calibration images, or none, open (with --no-flags)",
    )
    export.add_argument("--fpr", type=float, metavar="RATE", help="promised false-positive rate (0.05)")
    add_data(export)
    export.add_argument(
        "--input",
        dest="input_type",
        metavar="TYPE",
        help="fp32 (default; values from 0 to 1) or uint8 (pixels from 0 to 255)",
    )
    export.add_argument("--max-batch", type=int, metavar="N", help="largest batch of one request (32)")
    export.add_argument(
        "--provider", metavar="P", help="what auto measures on: cpu (default), cuda or openvino"
    )
    export.add_argument("--batch", type=int, metavar="N", help="images in one run of that measurement (1)")
    export.add_argument("--threads", type=int, metavar="T", help="of one run on the CPU (1)")
    plan = export.add_argument_group(
        "many exports", "instead of SOURCE and --name; --repository and --data then count for the whole plan"
    )
    plan.add_argument("--plan", type=Path, metavar="FILE", help="TOML, see configs/plans/")
    plan.add_argument("--jobs", type=int, metavar="N", help="processes at a time (half as many as cores)")
    plan.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    _add_ray(plan)
    export.set_defaults(run=lambda parsed: _export(export, parsed))


def _add_score(commands: Commands) -> None:
    score = commands.add_parser(
        "score", help="score folders of images without a server, as the [[score]] tables of a plan say"
    )
    score.add_argument(
        "--plan", type=Path, required=True, metavar="FILE", help="TOML, see docs/batch-export.md"
    )
    score.add_argument("--repository", type=Path, metavar="DIR", help="counts instead of the plan's")
    _add_ray(score)
    score.set_defaults(run=_score)


def _add_ray(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="work on a Ray cluster: HOST:PORT, auto (default: the one this machine is in) or local (a new one)",
    )


def _add_credentials(command: argparse.ArgumentParser) -> None:
    secured = command.add_argument_group("for servers with TLS or tokens")
    secured.add_argument("--authority", type=Path, metavar="PEM", help="who signed the server's certificate")
    secured.add_argument("--certificate", type=Path, metavar="PEM", help="this client's own")
    secured.add_argument("--key", type=Path, metavar="PEM", help="of this client's certificate")
    secured.add_argument("--token-file", type=Path, metavar="FILE", help="its first line is sent")


def _add_serve(commands: Commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a model repository over gRPC",
        description="Every setting can also come from the environment, PENSTOCK_GRPC_PORT for --grpc-port, and "
        "from a file. docs/serving.md explains them all.",
    )
    # No defaults here: what is not given is left to the environment, and then to the settings' own defaults.
    serve.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML")
    serve.add_argument("--model-repository", type=Path, metavar="DIR")
    serve.add_argument("--model-control-mode", metavar="MODE", help="none (default), poll or explicit")
    serve.add_argument(
        "--repository-poll-secs", type=float, metavar="SECONDS", help="between two looks at the folder (15)"
    )
    serve.add_argument(
        "--load-model",
        action="append",
        metavar="NAME",
        help="load this model at the start, in mode explicit; may be repeated; * for all",
    )
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--grpc-port", type=int, metavar="PORT", help="8001; 0: any free port")
    serve.add_argument("--metrics-port", type=int, metavar="PORT", help="8002; 0: any free port")
    serve.add_argument("--require-gpu", action="store_true", default=None, help="do not fall back to the CPU")
    serve.add_argument("--threads", type=int, metavar="T", help="cores to use (all)")
    serve.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    others = serve.add_argument_group("more settings")
    for field in fields(Settings):
        if field.name not in _EXPLAINED:
            others.add_argument(f"--{field.name.replace('_', '-')}", metavar=str(field.type).split()[0])
    serve.set_defaults(run=_serve)


def _version(_: argparse.Namespace) -> int:
    print(__version__)
    return 0


def _demo(parsed: argparse.Namespace) -> int:
    from rich.console import Console

    from penstock.demo import run_demo

    picture = parsed.picture or Path(f"penstock-demo-{parsed.data}.png")
    figures = run_demo(parsed.data, picture, parsed.json, Console())
    return 1 if figures.failed_requests else 0


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
    tuning = manifest.tuning
    faster = "" if tuning is None else f"{tuning.ratio:.2f} times as fast as dense here, "
    print(f"{bundle.folder}: {manifest.lowering}, {faster}{_closeness(manifest)}")
    return 0


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
    return f"{manifest.precision}: beside float32 {same}logits off by {found.logit_error:.2%}"


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


def _serve(parsed: argparse.Namespace) -> int:
    from penstock.service.commands import serve

    flags = {field.name: getattr(parsed, field.name) for field in fields(Settings)}
    return serve(Settings.read(os.environ, config=parsed.config, **flags))


def _score(parsed: argparse.Namespace) -> int:
    from penstock.service.scoring.job import run_scores

    return run_scores(parsed.plan, print, repository=parsed.repository, ray=parsed.ray)


def _infer(parsed: argparse.Namespace) -> int:
    from penstock.service.commands import infer

    credentials = _credentials(parsed)
    return infer(parsed.url, parsed.model, parsed.images, timeout=parsed.timeout, credentials=credentials)


def _watch(parsed: argparse.Namespace) -> int:
    from penstock.service.commands import watch

    return watch(parsed.url, parsed.model, count=parsed.count, credentials=_credentials(parsed))


def _credentials(parsed: argparse.Namespace) -> Credentials:
    from penstock.service.credentials import Credentials

    return Credentials(
        authority=parsed.authority,
        certificate=parsed.certificate,
        key=parsed.key,
        token_file=parsed.token_file,
    )
