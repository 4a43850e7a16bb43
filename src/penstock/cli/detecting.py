"""Commands about detectors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.cli.options import SOURCE, Commands, add_config, add_run, say

if TYPE_CHECKING:
    from penstock.attacks.served import Served


def add(commands: Commands) -> None:
    """Add them all."""
    detect = commands.add_parser("detect", help="detectors: how much their flags mean")
    detect_commands = detect.add_subparsers(dest="detect_command", required=True, metavar="COMMAND")
    _add_calibrate(detect_commands)
    _add_evaluate(detect_commands)


def _add_calibrate(commands: Commands) -> None:
    calibrate = commands.add_parser(
        "calibrate",
        help="set a bundle's threshold anew on clean images, and write it as a new version beside the old one",
    )
    calibrate.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        help="version folder in a model repository, or a model's folder: its newest version",
    )
    calibrate.add_argument(
        "--data",
        metavar="DATA",
        help="a folder of image files, all of which count; a data set's name, whose calibration images count; or the "
        "folder with the files of the bundle's own data set (default: $PENSTOCK_DATA)",
    )
    calibrate.add_argument(
        "--fpr", type=float, metavar="RATE", help="promised false-positive rate (default: the bundle's)"
    )
    calibrate.add_argument("--per-class", action="store_true", help="a threshold for each predicted class")
    calibrate.set_defaults(run=_calibrate)


def _add_evaluate(commands: Commands) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="attack a network in many ways and see what is flagged; goes on where it was killed"
    )
    evaluate.add_argument("source", metavar="SOURCE", help=SOURCE)
    add_config(evaluate)
    add_run(evaluate, devices=False)
    evaluate.add_argument(
        "--bundle",
        dest="bundles",
        type=Path,
        action="append",
        default=[],
        metavar="BUNDLE",
        help="an export of SOURCE, judged on the same images by ONNX Runtime; may be repeated",
    )
    evaluate.set_defaults(run=_evaluate)


def _calibrate(parsed: argparse.Namespace) -> int:
    from penstock.export.recalibrate import RecalibrateOptions, recalibrate

    bundle = recalibrate(
        RecalibrateOptions(
            bundle=parsed.bundle, data=parsed.data, fpr=parsed.fpr, per_class=parsed.per_class
        ),
        say,
    )
    calibration = bundle.manifest.calibration
    assert calibration is not None
    own = calibration.class_thresholds
    thresholds = (
        f"thresholds {min(own):.4g} to {max(own):.4g}" if own else f"threshold {calibration.threshold:.4g}"
    )
    print(
        f"{bundle.folder}: {thresholds} on {calibration.images} images for a rate of {calibration.target_fpr:g}"
    )
    return 0


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
        [_served(folder) for folder in parsed.bundles],
    )
    print(parsed.out / RESULTS)
    return 0


def _served(folder: Path) -> Served:
    from penstock.attacks.served import Served
    from penstock.bundle import newest_bundle
    from penstock.export.runtime import open_bundle

    bundle = newest_bundle(folder)
    name = f"{bundle.folder.resolve().parent.name}/{bundle.folder.name}"
    return Served(name, bundle.manifest, open_bundle(bundle, threads=0).run)
