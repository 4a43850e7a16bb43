"""Commands that look at what was trained."""

from __future__ import annotations

import argparse
from pathlib import Path

from penstock.cli.options import SOURCE, Commands, add_data, say


def add(commands: Commands) -> None:
    """Add them all."""
    zoo = commands.add_parser("zoo", help="committed checkpoints")
    zoo_commands = zoo.add_subparsers(dest="zoo_command", required=True, metavar="COMMAND")
    zoo_commands.add_parser("list", help="list them with their figures").set_defaults(run=_zoo_list)

    evaluate = commands.add_parser("evaluate", help="accuracy, cost and input dependence on test images")
    evaluate.add_argument("source", metavar="SOURCE", help=SOURCE)
    add_data(evaluate)
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    evaluate.set_defaults(run=_evaluate)

    report = commands.add_parser("report", help="the same and more as a page with pictures, one HTML file")
    report.add_argument("source", metavar="RUN", help=SOURCE)
    report.add_argument("--out", type=Path, required=True, metavar="FILE", help="HTML file to write")
    add_data(report)
    report.set_defaults(run=_report)


def _zoo_list(_: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from penstock import zoo

    def share(value: float | None) -> str:
        return (
            "-" if value is None else f"{value:.2%}"
        )  # a cascade has no share of filters that depend on the input

    table = Table(title="Committed checkpoints")
    for heading in ("source", "dense", "decoupled", "MACs", "input-\ndependent"):
        table.add_column(heading, no_wrap=True)
    table.add_column("started from", overflow="fold")
    for entry in zoo.entries():
        shares = ("dense_accuracy", "decoupled_accuracy", "mac_fraction", "input_dependent")
        table.add_row(f"zoo:{entry.name}", *(share(entry.figures[key]) for key in shares), entry.origin)
    Console().print(table)
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from penstock.files import write_atomic
    from penstock.report.evaluation import evaluate
    from penstock.report.evaluation_tables import evaluation_tables
    from penstock.report.observation import observe

    figures = evaluate(observe(parsed.source, parsed.data, say))
    Console().print(evaluation_tables(figures))
    if parsed.json:
        write_atomic(parsed.json, json.dumps(figures.to_json(), indent=2) + "\n")
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from penstock.report.report import write_report

    write_report(parsed.source, parsed.out, parsed.data, say)
    print(parsed.out)
    return 0
