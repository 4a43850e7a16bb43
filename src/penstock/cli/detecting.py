"""Commands about detectors."""

from __future__ import annotations

import argparse

from penstock.cli.options import SOURCE, Commands, add_config, add_run, say


def add(commands: Commands) -> None:
    """Add them all."""
    detect = commands.add_parser("detect", help="detectors: how much their flags mean")
    family = detect.add_subparsers(dest="detect_command", required=True, metavar="COMMAND")
    evaluate = family.add_parser(
        "evaluate", help="attack a network in many ways and see what is flagged; goes on where it was killed"
    )
    evaluate.add_argument("source", metavar="SOURCE", help=SOURCE)
    add_config(evaluate)
    add_run(evaluate, devices=False)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(parsed: argparse.Namespace) -> int:
    from rich.progress import track

    from penstock.attacks.evaluation import RESULTS, evaluate_detection
    from penstock.attacks.evaluation_config import EvaluationConfig
    from penstock.learn.reading import read

    evaluate_detection(
        parsed.source,
        read(EvaluationConfig, parsed.config, parsed.changes),
        parsed.out,
        parsed.data,
        say,
        lambda plan: track(plan, description="attacks"),
    )
    print(parsed.out / RESULTS)
    return 0
