"""The command line: parse, call, print what went wrong in one line.

Heavy libraries are imported inside the commands, so that ``penstock --help`` answers at once.

Exit codes: 0 all well, 1 an error that the message explains, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from penstock import __version__
from penstock.errors import PenstockError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        return code
    except PenstockError as error:
        print(f"penstock: error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("penstock"):
            raise
        print(f"penstock: error: {_missing(parsed.command, error)}", file=sys.stderr)
        return 1
    except OSError as error:  # a folder that may not be written, a full disk: the system says which and why
        print(f"penstock: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("penstock: interrupted", file=sys.stderr)
        return 130


def _missing(command: str, error: ModuleNotFoundError) -> str:
    extras = {
        "serve": "serve",
        "infer": "serve",
        "export": "export,train",
        "train": "train",
        "decouple": "train",
        "consolidate": "train",
        "cascade": "train",
        "evaluate": "train",
        "report": "train",
    }
    needed = extras.get(command, "serve,export,train,attacks")
    return (
        f"`penstock {command}` needs {error.name}, which is not installed: pip install 'penstock[{needed}]'"
    )


def _version(_: argparse.Namespace) -> int:
    print(__version__)
    return 0


def _demo(parsed: argparse.Namespace) -> int:
    from rich.console import Console

    from penstock.demo import run_demo

    picture = parsed.picture or Path(f"penstock-demo-{parsed.data}.png")
    figures = run_demo(parsed.data, picture, parsed.json, Console())
    return 1 if figures.failed_requests else 0


def _zoo_list(_: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from penstock import zoo

    table = Table(title="Committed checkpoints")
    for heading in ("source", "dense", "decoupled", "MACs", "input-\ndependent"):
        table.add_column(heading, no_wrap=True)
    table.add_column("started from", overflow="fold")
    for entry in zoo.entries():
        shares = ("dense_accuracy", "decoupled_accuracy", "mac_fraction", "input_dependent")
        table.add_row(f"zoo:{entry.name}", *(f"{entry.figures[key]:.2%}" for key in shares), entry.origin)
    Console().print(table)
    return 0


def _train(parsed: argparse.Namespace) -> int:
    import json

    from penstock.learn.dense import read_dense_config, train_dense

    config = read_dense_config(parsed.config)
    figures = train_dense(config, parsed.out, data=parsed.data, devices=parsed.devices, say=_say)
    print(json.dumps(figures, indent=2))
    return 0


def _decouple(parsed: argparse.Namespace) -> int:
    import json

    from penstock.learn.config import read_config
    from penstock.learn.decouple import decouple

    config = read_config(parsed.config)
    checkpoint = decouple(config, parsed.out, data=parsed.data, devices=parsed.devices, say=_say)
    print(json.dumps(dict(checkpoint.figures), indent=2))
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from penstock.files import write_atomic
    from penstock.report.evaluation import evaluate
    from penstock.report.evaluation_tables import evaluation_tables
    from penstock.report.observation import observe

    figures = evaluate(observe(parsed.source, parsed.data, _say))
    Console().print(evaluation_tables(figures))
    if parsed.json:
        write_atomic(parsed.json, json.dumps(figures.to_json(), indent=2) + "\n")
    return 0


def _consolidate(parsed: argparse.Namespace) -> int:
    import json

    from penstock.learn.consolidate import consolidate
    from penstock.learn.consolidate_config import read_consolidate_config

    config = read_consolidate_config(parsed.config, count=parsed.prototypes, budget=parsed.budget)
    checkpoint = consolidate(
        parsed.source, config, parsed.out, data=parsed.data, devices=parsed.devices, say=_say
    )
    print(json.dumps(dict(checkpoint.figures), indent=2))
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from penstock.report.report import write_report

    write_report(parsed.source, parsed.out, parsed.data, _say)
    print(parsed.out)
    return 0


def _cascade(parsed: argparse.Namespace) -> int:
    import json

    from penstock.learn.cascade import cascade

    checkpoint = cascade(
        parsed.first,
        parsed.second,
        parsed.out,
        budget=parsed.budget,
        fpr=parsed.fpr,
        data=parsed.data,
        say=_say,
    )
    print(json.dumps(dict(checkpoint.figures), indent=2))
    return 0


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
    bundle = export(ExportOptions(**{name: getattr(parsed, name) for name in names}), _say)
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


def _say(line: str) -> None:
    print(f"- {line}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock",
        description="Convolutional networks that compute only what each input needs, and tell when an input is "
        "suspicious.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

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

    zoo = commands.add_parser("zoo", help="committed checkpoints")
    zoo_commands = zoo.add_subparsers(dest="zoo_command", required=True, metavar="COMMAND")
    zoo_commands.add_parser("list", help="list them with their figures").set_defaults(run=_zoo_list)

    train = commands.add_parser("train", help="train a dense network; goes on where a killed run stopped")
    train.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML, see configs/dense/")
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    train.add_argument("--data", type=Path, metavar="FOLDER", help="data folder (default: $PENSTOCK_DATA)")
    train.add_argument(
        "--devices", type=int, default=1, metavar="N", help="GPUs or processes to train on (1)"
    )
    train.set_defaults(run=_train)

    decouple = commands.add_parser("decouple", help="learn gates; goes on where a killed run stopped")
    decouple.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML, see configs/")
    decouple.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    decouple.add_argument("--data", type=Path, metavar="FOLDER", help="data folder (default: $PENSTOCK_DATA)")
    decouple.add_argument(
        "--devices", type=int, default=1, metavar="N", help="GPUs or processes to train on (1)"
    )
    decouple.set_defaults(run=_decouple)
    _add_judging(commands)
    _add_consolidate(commands)
    _add_cascade(commands)
    _add_export(commands)
    _add_serve(commands)

    infer = commands.add_parser("infer", help="ask a running server about image files")
    infer.add_argument("--url", default="127.0.0.1:8001", metavar="HOST:PORT")
    infer.add_argument("--model", required=True, metavar="NAME")
    infer.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")
    infer.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    infer.set_defaults(run=_infer)
    return parser


def _add_judging(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="accuracy, cost and input dependence on the images that were held out of training"
    )
    evaluate.add_argument("source", metavar="SOURCE", help="run folder, checkpoint file, or zoo:NAME")
    evaluate.add_argument("--data", type=Path, metavar="FOLDER", help="data folder (default: $PENSTOCK_DATA)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    evaluate.set_defaults(run=_evaluate)

    report = commands.add_parser("report", help="the same and more as a page with pictures, one HTML file")
    report.add_argument("source", metavar="RUN", help="run folder, checkpoint file, or zoo:NAME")
    report.add_argument("--out", type=Path, required=True, metavar="FILE", help="HTML file to write")
    report.add_argument("--data", type=Path, metavar="FOLDER", help="data folder (default: $PENSTOCK_DATA)")
    report.set_defaults(run=_report)


def _add_consolidate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    consolidate = commands.add_parser(
        "consolidate",
        help="replace gates by a few prototype paths per stage; goes on where a killed run stopped",
    )
    consolidate.add_argument(
        "source", metavar="SOURCE", help="decoupled: run folder, checkpoint file, or zoo:NAME"
    )
    consolidate.add_argument("--prototypes", type=int, required=True, metavar="K", help="1 is static pruning")
    consolidate.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    consolidate.add_argument(
        "--budget", type=float, metavar="SHARE", help="of the dense MACs (default: SOURCE's)"
    )
    consolidate.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML with everything else, see configs/"
    )
    consolidate.add_argument(
        "--data", type=Path, metavar="FOLDER", help="data folder (default: $PENSTOCK_DATA)"
    )
    consolidate.add_argument(
        "--devices", type=int, default=1, metavar="N", help="GPUs or processes to train on (1)"
    )
    consolidate.set_defaults(run=_consolidate)


def _add_cascade(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cascade = commands.add_parser(
        "cascade", help="let a small network answer what it is sure of, and a large one the rest"
    )
    cascade.add_argument("first", metavar="SMALL", help="run folder, checkpoint file, or zoo:NAME")
    cascade.add_argument("second", metavar="LARGE", help="the same, of the same dense network")
    cascade.add_argument("--budget", type=float, required=True, metavar="SHARE", help="of the dense MACs")
    cascade.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    cascade.add_argument(
        "--fpr", type=float, default=0.05, metavar="RATE", help="promised false-positive rate"
    )
    cascade.add_argument("--data", type=Path, metavar="FOLDER", help="data folder (default: $PENSTOCK_DATA)")
    cascade.set_defaults(run=_cascade)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export", help="compile a checkpoint to ONNX and add it to a model repository"
    )
    export.add_argument("source", metavar="SOURCE", help="run folder, checkpoint file, or zoo:NAME")
    export.add_argument("--repository", type=Path, required=True, metavar="DIR")
    export.add_argument("--name", required=True, help="model name in the repository")
    export.add_argument("--dense", action="store_true", help="the network as it was before it got gates")
    export.add_argument(
        "--lowering", default="auto", help="auto (default: whichever is faster here), masked or gathered"
    )
    export.add_argument("--no-flags", dest="flags", action="store_false", help="leave the detector out")
    export.add_argument(
        "--fpr", type=float, default=0.05, metavar="RATE", help="promised false-positive rate"
    )
    export.add_argument("--data", type=Path, metavar="FOLDER", help="data folder (default: $PENSTOCK_DATA)")
    export.add_argument("--max-batch", type=int, default=32, metavar="N", help="largest batch of one request")
    export.add_argument("--threads", type=int, default=1, metavar="T", help="of the measurement behind auto")
    export.set_defaults(run=_export)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
