"""Disentangle networks, measure their sub-architectures, and write ``results/disentangle.json`` and pictures.

    python benchmarks/disentangle.py                                          # all of configs/disentangle
    python benchmarks/disentangle.py configs/disentangle/vgg16-cifar10.toml   # one network

Each network is a configuration, the same that `penstock disentangle` takes, so what was measured can be had by that
command too. Weights lie in the working folder or in that of the data; those of densenet40 and mnasnet come from
`penstock train`, see their configurations. The paper's comparison of connections wants vgg16 (plain), resnet56
(residual), densenet40 (dense) and mnasnet (searched); resnet20 and squeezenet1_1 stand beside them. A run that is
there already is not made again, so a benchmark that was stopped goes on; one network that fails, or whose weights are
missing, is said so and leaves the others' results as they are.

A step has the same length in every layer, so that a wide layer's scores each move little. 300 steps of the release's
length, 0.1, left layers of 64 filters and more almost as they were drawn: then curves against depth show widths, not
what a class needs. Steps of 1 go as far in 300 as the release's do in 3,000. Scores begin around 2, with nearly all
filters open, since a network that begins with half of them closed answers nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS, about

from penstock.errors import PenstockError
from penstock.files import write_atomic
from penstock.learn.disentangle import disentangle
from penstock.learn.disentangle_config import DisentangleConfig
from penstock.learn.reading import read
from penstock.nn.checkpoint import ZOO_PREFIX
from penstock.report.disentangle import draw_confusions, draw_depth

CONFIGS = RESULTS.parents[1] / "configs" / "disentangle"
RESULT = "disentangle.json"
RELEASE = "release"  # the form whose configurations are run only where they are named: none of its figures is published


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """Run everything and write the files.

    Args:
        arguments: of the command line.
        results: folder of the results.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks",
        nargs="*",
        type=Path,
        metavar="CONFIG",
        help="default: " + ", ".join(path.stem for path in measured()),
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/disentangle"), help="folder of the run folders"
    )
    parsed = parser.parse_args(arguments)
    failed = 0
    for path in parsed.networks or measured():
        try:
            _run(read(DisentangleConfig, path), parsed.runs, results / RESULT)
        except PenstockError as error:
            failed += 1
            print(f"{path.stem} left out: {error}", file=sys.stderr)
    figures = {name: each["figures"] for name, each in _kept(results / RESULT)["networks"].items()}
    if figures:
        draw_depth(figures, results / "disentangle.png")
    # Entries of earlier versions have the correlation, but not what was correlated.
    compared = {name: each for name, each in figures.items() if "confusion" in each["agreement"]}
    if compared:
        draw_confusions(compared, results / "confusions.png")
    return 1 if failed else 0


def measured() -> list[Path]:
    """The configurations behind the published figures."""
    return [path for path in sorted(CONFIGS.glob("*.toml")) if read(DisentangleConfig, path).form != RELEASE]


def name_of(config: DisentangleConfig) -> str:
    """How a network is called in results and pictures."""
    name = f"{config.backbone}-{config.data}"
    return name if config.form == RELEASE else f"{name}-{config.form}"


def started(config: DisentangleConfig) -> str:
    """Where a network's weights are from: the zoo's entry, or run or folder and file, without the folders above."""
    start = config.start
    return start if start.startswith(ZOO_PREFIX) else Path(*Path(start).parts[-2:]).as_posix()


def settings_of(config: DisentangleConfig) -> dict[str, Any]:
    """All else that was asked for, as it stands in the results."""
    settings = config.to_json()
    for name in ("data", "backbone", "start"):
        del settings[name]
    return settings


def _run(config: DisentangleConfig, runs: Path, file: Path) -> None:
    folder = runs / f"{config.backbone}-{config.data}-{config.form}"
    result = disentangle(config, folder, say=lambda line: print(f"- {line}", file=sys.stderr))
    kept = _kept(file)
    kept["networks"][name_of(config)] = {
        "machine": about(),
        "start": started(config),
        "settings": settings_of(config),
        "figures": dict(result.figures),
    }
    write_atomic(file, json.dumps(kept, indent=2) + "\n")


def _kept(file: Path) -> dict[str, Any]:
    """What earlier calls measured: networks are many hours together, so each adds its own."""
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return kept
    return {"networks": {}}


if __name__ == "__main__":
    sys.exit(main())
