"""Write the tables of the README and of docs from ``results/*.json``, between the marks that stand there.

python benchmarks/tables.py            # rewrite
python benchmarks/tables.py --check    # exit 1 if a page differs from the results

Where results are not there yet, the place between the marks says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import table_batching
import table_detection
import table_disentangle
import table_learning
import table_main_job
import table_mixed_batches
import table_ray
import table_requirements
import table_serving
import table_speed
import table_speed_gpu
import table_speed_requirements
import table_stress
from machine import RESULTS

ROOT = RESULTS.parent.parent


@dataclass(frozen=True)
class Table:
    """What stands between two marks.

    Attributes:
        source: file of results that it is made from.
        made_by: script that writes that file.
        lines: makes the lines; none where nothing of this table was measured.
    """

    source: str
    made_by: str
    lines: Callable[[dict[str, Any]], list[str]]

    def text(self, results: Path) -> str:
        """The lines, or one that says that there are none yet."""
        file = results / self.source
        lines = self.lines(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []
        missing = f"Not measured yet: `benchmarks/{self.made_by}` writes `benchmarks/results/{self.source}`."
        return "\n".join([*(lines or [missing]), ""])


def _main_job(lines: Callable[[dict[str, Any]], list[str]]) -> Table:
    return Table("main_job.json", "main_job.py", lines)


def _learning(lines: Callable[[dict[str, Any]], list[str]]) -> Table:
    return Table("learning.json", "study.py", lines)


def _disentangle(lines: Callable[[dict[str, Any]], list[str]]) -> Table:
    return Table("disentangle.json", "disentangle.py", lines)


def _detection(lines: Callable[[dict[str, Any]], list[str]]) -> Table:
    return Table("detection.json", "detection.py", lines)


def _speed(lines: Callable[[dict[str, Any]], list[str]]) -> Table:
    return Table("speed.json", "speed.py", lines)


def _serving(lines: Callable[[dict[str, Any]], list[str]]) -> Table:
    return Table("serving.json", "serving.py", lines)


def _mixed(source: str, option: str) -> Table:
    return Table(source, f"mixed_batches.py{option}", table_mixed_batches.everything)


BEST = _learning(table_learning.best_settings)
PAGES: Mapping[str, Mapping[str, Table]] = {
    "README.md": {
        "main-job": _main_job(table_main_job.main_job),
        "lowerings": _main_job(table_main_job.lowerings),
        "speed": _speed(table_speed.summary),
        "serving": _serving(table_serving.summary),
        "best-settings": BEST,
    },
    "docs/speed-results.md": {
        "speed-requirements": _speed(table_speed_requirements.requirements),
        "speed-everything": _speed(table_speed.everything),
        "speed-flags": _speed(table_speed.flags),
        "speed-exports": _speed(table_speed.exports),
        "speed-growth": _speed(table_speed.growth),
        "speed-gpu": Table("speed_gpu.json", "speed_gpu.py", table_speed_gpu.everything),
    },
    "docs/serving-results.md": {
        "serving-servers": _serving(table_serving.servers),
        "serving-limits": _serving(table_serving.limits),
        "serving-overload": _serving(table_serving.overload),
        "serving-phases": _serving(table_serving.phases),
        "ray-scaling": Table("ray.json", "ray_scaling.py", table_ray.scaling),
    },
    "docs/stress-results.md": {
        "stress": Table("stress.json", "stress.py", table_stress.everything),
    },
    "docs/batching.md": {
        "batching": Table("batching.json", "batching.py", table_batching.everything),
    },
    "docs/decisions/0014-no-path-aware-batching-yet.md": {
        "mixed-batches": _mixed("mixed_batches.json", ""),
        "mixed-batches-gpu": _mixed("mixed_batches_gpu.json", " --gpu"),
    },
    "docs/detection-results.md": {
        "detection-requirements": _detection(table_requirements.requirements),
        "detection-false-positives": _detection(table_detection.false_positives),
        "detection-attacks": _detection(table_detection.detection),
        "detection-scores": _detection(table_detection.scores),
        "detection-evasion": _detection(table_detection.evasion),
        "detection-served": _detection(table_detection.served),
        "detection-supervised": _detection(table_detection.supervised),
        "detection-inflation": _detection(table_detection.inflation),
        "detection-inflated-latency": _detection(table_detection.inflated_latency),
    },
    "docs/learning-results.md": {
        "best-settings": BEST,
        "equal-macs": _learning(table_learning.equal_macs),
        "input-dependence": _learning(table_learning.dependence),
        "other-networks": _learning(table_learning.other_networks),
        "paper-preset": _learning(table_learning.paper_preset),
        "class-tasks": _disentangle(table_disentangle.tasks),
        "class-similarity": _disentangle(table_disentangle.classes),
        "path-hit-rates": _disentangle(table_disentangle.hit_rates),
    },
}


class MarksError(Exception):
    """A page has no place, or several, for a table."""


def main(arguments: Sequence[str] | None = None, root: Path = ROOT, results: Path = RESULTS) -> int:
    """Rewrite the pages, or compare them.

    Args:
        arguments: of the command line.
        root: folder of the pages.
        results: folder of the results.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check: bool = parser.parse_args(arguments).check
    differing = []
    for page, tables in PAGES.items():
        old = (root / page).read_text(encoding="utf-8")
        try:
            new = fill(old, {mark: table.text(results) for mark, table in tables.items()})
        except MarksError as error:
            print(f"{page} {error}", file=sys.stderr)
            return 1
        if new != old:
            differing.append(page)
            if not check:
                (root / page).write_text(new, encoding="utf-8")
    if check and differing:
        print(
            f"{', '.join(differing)}: not what benchmarks/results says: run python benchmarks/tables.py",
            file=sys.stderr,
        )
    return int(check and bool(differing))


def fill(text: str, tables: Mapping[str, str]) -> str:
    """A page with other tables between its marks.

    Raises:
        MarksError: there is not exactly one place for each.
    """
    for mark, table in tables.items():
        begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
        if not (text.count(begin) == text.count(end) == 1 and text.index(begin) < text.index(end)):
            raise MarksError(f"needs one place for {mark}, a line {begin.strip()} and a line {end}")
        before, rest = text.split(begin)
        text = before + begin + table + end + rest.split(end)[1]
    return text


if __name__ == "__main__":
    sys.exit(main())
