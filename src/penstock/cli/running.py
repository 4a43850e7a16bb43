"""Commands that run what was exported: demo, server, scoring and clients."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from penstock import __version__
from penstock.cli.options import Commands, add_ray
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


def _add_score(commands: Commands) -> None:
    score = commands.add_parser(
        "score", help="score folders of images without a server, as the [[score]] tables of a plan say"
    )
    score.add_argument(
        "--plan", type=Path, required=True, metavar="FILE", help="TOML, see docs/batch-export.md"
    )
    score.add_argument("--repository", type=Path, metavar="DIR", help="counts instead of the plan's")
    add_ray(score)
    score.set_defaults(run=_score)


def _add_credentials(command: argparse.ArgumentParser) -> None:
    secured = command.add_argument_group("for servers with TLS or tokens")
    secured.add_argument("--authority", type=Path, metavar="PEM", help="who signed the server's certificate")
    secured.add_argument("--certificate", type=Path, metavar="PEM", help="this client's own")
    secured.add_argument("--key", type=Path, metavar="PEM", help="of this client's certificate")
    secured.add_argument("--token-file", type=Path, metavar="FILE", help="its first line is sent")
    secured.add_argument("--server-name", metavar="NAME", help="in the server's certificate (the address's)")


def _add_serve(commands: Commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a model repository over gRPC",
        description="Every setting can also come from the environment, PENSTOCK_GRPC_PORT for --grpc-port, and "
        "from a file. docs/settings.md explains them all.",
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
        server_name=parsed.server_name,
    )
