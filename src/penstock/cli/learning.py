"""Commands that train: each leaves a run folder, and goes on where a killed run stopped."""

from __future__ import annotations

import argparse

from penstock.cli.options import (
    SOURCE,
    Commands,
    add_config,
    add_rate,
    add_run,
    print_figures,
    say,
)


def add(commands: Commands) -> None:
    """Add them all."""
    train = commands.add_parser("train", help="train a dense network")
    add_config(train)
    add_run(train)
    train.set_defaults(run=_train)

    decouple = commands.add_parser("decouple", help="learn gates; goes on where a killed run stopped")
    add_config(decouple)
    add_run(decouple)
    decouple.set_defaults(run=_decouple)

    consolidate = commands.add_parser("consolidate", help="replace gates by a few prototype paths per stage")
    consolidate.add_argument("source", metavar="SOURCE", help=f"decoupled: {SOURCE}")
    consolidate.add_argument("--prototypes", type=int, required=True, metavar="K", help="1 is static pruning")
    consolidate.add_argument(
        "--budget", type=float, metavar="SHARE", help="of the dense MACs (default: SOURCE's)"
    )
    add_config(consolidate, required=False)
    add_run(consolidate)
    consolidate.set_defaults(run=_consolidate)
    _add_cascade(commands)

    observe = commands.add_parser(
        "observe", help="put observers on a finished network, which leave its answers as they are, for flags"
    )
    observe.add_argument("source", metavar="SOURCE", help=SOURCE)
    observe.add_argument(
        "--dense", action="store_true", help="observe the network as it was before it got gates"
    )
    add_config(observe, required=False)
    add_run(observe, devices=False)
    observe.set_defaults(run=_observe)

    disentangle = commands.add_parser(
        "disentangle", help="find each class's sub-architecture of a frozen network"
    )
    add_config(disentangle)
    add_run(disentangle, devices=False)
    disentangle.set_defaults(run=_disentangle)


def _add_cascade(commands: Commands) -> None:
    cascade = commands.add_parser(
        "cascade", help="let a small network answer what it is sure of, and a large one the rest"
    )
    cascade.add_argument("first", metavar="SMALL", help=SOURCE)
    cascade.add_argument(
        "second",
        metavar="LARGE",
        nargs="?",
        help="the same, of the same dense network (default: the dense network itself)",
    )
    cascade.add_argument("--budget", type=float, required=True, metavar="SHARE", help="of the dense MACs")
    cascade.add_argument(
        "--blend", type=float, metavar="WEIGHT", help="of SMALL's logits beside those of LARGE (0.1)"
    )
    add_rate(cascade)
    add_run(cascade, devices=False)
    cascade.set_defaults(run=_cascade)


def _train(parsed: argparse.Namespace) -> int:
    from penstock.learn.dense import DenseConfig, train_dense
    from penstock.learn.reading import read

    config = read(DenseConfig, parsed.config, parsed.changes)
    print_figures(train_dense(config, parsed.out, data=parsed.data, devices=parsed.devices, say=say))
    return 0


def _decouple(parsed: argparse.Namespace) -> int:
    from penstock.learn.config import read_config
    from penstock.learn.decouple import decouple

    config = read_config(parsed.config, parsed.changes)
    checkpoint = decouple(config, parsed.out, data=parsed.data, devices=parsed.devices, say=say)
    print_figures(checkpoint.figures)
    return 0


def _consolidate(parsed: argparse.Namespace) -> int:
    from penstock.learn.consolidate import consolidate
    from penstock.learn.consolidate_config import read_consolidate_config

    config = read_consolidate_config(
        parsed.config, parsed.changes, count=parsed.prototypes, budget=parsed.budget
    )
    checkpoint = consolidate(
        parsed.source, config, parsed.out, data=parsed.data, devices=parsed.devices, say=say
    )
    print_figures(checkpoint.figures)
    return 0


def _cascade(parsed: argparse.Namespace) -> int:
    from penstock.learn.cascade import BLEND, cascade

    checkpoint = cascade(
        parsed.first,
        parsed.second,
        parsed.out,
        budget=parsed.budget,
        blend=BLEND if parsed.blend is None else parsed.blend,
        fpr=parsed.fpr,
        data=parsed.data,
        say=say,
    )
    print_figures(checkpoint.figures)
    return 0


def _observe(parsed: argparse.Namespace) -> int:
    from penstock.learn.observe import observe
    from penstock.learn.observe_config import read_observe_config

    config = read_observe_config(parsed.config, parsed.changes)
    checkpoint = observe(parsed.source, config, parsed.out, dense=parsed.dense, data=parsed.data, say=say)
    print_figures(checkpoint.figures)
    return 0


def _disentangle(parsed: argparse.Namespace) -> int:
    from penstock.learn.disentangle import disentangle
    from penstock.learn.disentangle_config import DisentangleConfig
    from penstock.learn.reading import read

    config = read(DisentangleConfig, parsed.config, parsed.changes)
    found = disentangle(config, parsed.out, data=parsed.data, say=say)
    print_figures(found.figures)
    return 0
