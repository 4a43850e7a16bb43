"""Commands that run what was trained: demo, export, server and client."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from penstock import __version__
from penstock.cli.options import SOURCE, Commands, add_data, add_rate, say


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

    infer = commands.add_parser("infer", help="ask a running server about image files")
    infer.add_argument("--url", default="127.0.0.1:8001", metavar="HOST:PORT")
    infer.add_argument("--model", required=True, metavar="NAME")
    infer.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")
    infer.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    infer.set_defaults(run=_infer)


def _add_export(commands: Commands) -> None:
    export = commands.add_parser(
        "export", help="compile a checkpoint to ONNX and add it to a model repository"
    )
    export.add_argument("source", metavar="SOURCE", help=SOURCE)
    export.add_argument("--repository", type=Path, required=True, metavar="DIR")
    export.add_argument("--name", required=True, help="model name in the repository")
    export.add_argument("--dense", action="store_true", help="the network as it was before it got gates")
    export.add_argument(
        "--lowering", default="auto", help="auto (default: whichever is faster here), masked or gathered"
    )
    export.add_argument("--no-flags", dest="flags", action="store_false", help="leave the detector out")
    add_rate(export)
    add_data(export)
    export.add_argument("--max-batch", type=int, default=32, metavar="N", help="largest batch of one request")
    export.add_argument("--threads", type=int, default=1, metavar="T", help="of the measurement behind auto")
    export.set_defaults(run=_export)


def _add_serve(commands: Commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a model repository over gRPC",
        description="Every setting can also come from the environment: PENSTOCK_GRPC_PORT for --grpc-port.",
    )
    # No defaults here: what is not given is left to the environment, and then to the settings' own defaults.
    serve.add_argument("--model-repository", type=Path, metavar="DIR")
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--grpc-port", type=int, metavar="PORT", help="8001; 0: any free port")
    serve.add_argument("--metrics-port", type=int, metavar="PORT", help="8002; 0: any free port")
    serve.add_argument("--require-gpu", action="store_true", default=None, help="do not fall back to the CPU")
    serve.add_argument("--threads", type=int, metavar="T", help="cores to use (all)")
    serve.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
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


def _export(parsed: argparse.Namespace) -> int:
    from penstock.export.pipeline import ExportOptions, export

    names = (
        "source",
        "repository",
        "name",
        "dense",
        "lowering",
        "flags",
        "fpr",
        "data",
        "max_batch",
        "threads",
    )
    bundle = export(ExportOptions(**{name: getattr(parsed, name) for name in names}), say)
    manifest = bundle.manifest
    print(
        f"{bundle.folder}: {manifest.lowering}, largest difference to PyTorch {manifest.parity['max_abs']:.1e}"
    )
    return 0


def _serve(parsed: argparse.Namespace) -> int:
    from penstock.service.commands import serve
    from penstock.service.settings import Settings

    names = ("model_repository", "host", "grpc_port", "metrics_port", "require_gpu", "threads", "log_level")
    return serve(Settings.read(os.environ, **{name: getattr(parsed, name) for name in names}))


def _infer(parsed: argparse.Namespace) -> int:
    from penstock.service.commands import infer

    return infer(parsed.url, parsed.model, parsed.images, timeout=parsed.timeout)
