r"""Disentangle networks, measure their sub-architectures, and write ``results/disentangle.json`` and pictures.

    python benchmarks/disentangle.py --runs runs/disentangle \
        cifar10:vgg16=zoo:vgg16-cifar10:0.1,0.3 \
        cifar10:resnet20=weights/akamaster_resnet20-12fca82f.th:0.1,0.3 \
        cifar10:resnet56=weights/akamaster_resnet56-4bfd9763.th:0.1,0.3 \
        caltech25:squeezenet1_1=zoo:squeezenet-caltech25:0.1

Each network is ``DATA:BACKBONE=WEIGHTS:BETAS``; weights lie in the working folder or in that of the data. The paper's
comparison of connections wants vgg16 (plain), resnet56 (residual), densenet40 (dense) and mnasnet (searched). A run
that is there already is not made again, so a benchmark that was stopped goes on; one network that fails, or whose
weights are missing, is said so and leaves the others' results as they are.

A step has the same length in every layer, so that a wide layer's scores each move little. 300 steps of the release's
length, 0.1, left layers of 64 filters and more almost as they were drawn: then curves against depth show widths, not
what a class needs. Steps of 1 go as far in 300 as the release's do in 3,000. Scores begin around 2, with nearly all
filters open, since a network that begins with half of them closed answers nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import RESULTS, about

from penstock.errors import PenstockError
from penstock.files import write_atomic
from penstock.learn.disentangle import disentangle
from penstock.learn.disentangle_config import DisentangleConfig, MeasureConfig
from penstock.report.disentangle import draw_confusions, draw_depth

RESULT = RESULTS / "disentangle.json"


@dataclass(frozen=True)
class Wanted:
    """One network of the list.

    Attributes:
        data: data set.
        backbone: architecture.
        start: file with its weights.
        betas: to choose from.
    """

    data: str
    backbone: str
    start: str
    betas: tuple[float, ...]

    @property
    def name(self) -> str:
        """How it is called in results and pictures."""
        return f"{self.backbone}-{self.data}"


def parse(text: str) -> Wanted:
    """Read ``DATA:BACKBONE=WEIGHTS:BETAS``.

    Raises:
        argparse.ArgumentTypeError: it is of another form.
    """
    try:
        where, _, rest = text.partition("=")
        data, backbone = where.split(":")
        start, betas = rest.rsplit(":", 1)
        return Wanted(data, backbone, start, tuple(float(beta) for beta in betas.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not DATA:BACKBONE=WEIGHTS:BETA[,BETA]: {error}"
        ) from error


def main() -> int:
    """Run everything and write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="+", type=parse, metavar="DATA:BACKBONE=WEIGHTS:BETAS")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/disentangle"), help="folder of the run folders"
    )
    parser.add_argument("--form", default="bottleneck")
    parser.add_argument("--initial", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--step-size", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--images", type=int, default=500, help="training images of each class")
    parser.add_argument("--precision", default="bf16-mixed")
    parsed = parser.parse_args()
    failed = 0
    for wanted in parsed.networks:
        try:
            _run(wanted, parsed)
        except PenstockError as error:
            failed += 1
            print(f"{wanted.name} left out: {error}", file=sys.stderr)
    figures = {name: each["figures"] for name, each in _kept()["networks"].items()}
    if figures:
        draw_depth(figures, RESULTS / "disentangle.png")
    # Entries of earlier versions have the correlation, but not what was correlated.
    compared = {name: each for name, each in figures.items() if "confusion" in each["agreement"]}
    if compared:
        draw_confusions(compared, RESULTS / "confusions.png")
    return 1 if failed else 0


def _run(wanted: Wanted, parsed: argparse.Namespace) -> None:
    config = DisentangleConfig(
        data=wanted.data,
        backbone=wanted.backbone,
        start=wanted.start,
        form=parsed.form,
        beta=wanted.betas,
        initial=parsed.initial,
        steps=parsed.steps,
        step_size=parsed.step_size,
        batch_size=parsed.batch_size,
        images=parsed.images,
        precision=parsed.precision,
        measure=MeasureConfig(),
    )
    folder: Path = parsed.runs / f"{wanted.name}-{parsed.form}"
    result = disentangle(config, folder, say=lambda line: print(f"- {line}", file=sys.stderr))
    settings = {
        name: value for name, value in config.to_json().items() if name not in ("data", "backbone", "start")
    }
    entry = {"start": Path(wanted.start).name, "settings": settings, "figures": dict(result.figures)}
    kept = _kept()
    name = wanted.name if parsed.form == "release" else f"{wanted.name}-{parsed.form}"
    kept["networks"][name] = {"machine": about()} | entry
    write_atomic(RESULT, json.dumps(kept, indent=2) + "\n")


def _kept() -> dict[str, Any]:
    """What earlier calls measured: networks are many hours together, so each adds its own."""
    if RESULT.is_file():
        kept: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
        return kept
    return {"networks": {}}


if __name__ == "__main__":
    sys.exit(main())
