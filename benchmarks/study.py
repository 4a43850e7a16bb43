r"""Train and measure the networks behind the tables on learning, and write ``results/learning.json``.

    python benchmarks/study.py                      # everything in study.toml that is not finished
    python benchmarks/study.py --only 'resnet20*'   # some of it, and what that needs
    python benchmarks/study.py --jobs 2             # two runs at a time, which share the cores
    python benchmarks/study.py --measure            # only measure what is finished

``study.toml`` lists the runs: a command of ``penstock`` with its options, and the names of the runs that it needs.
Every run has a folder under ``--runs``; a run that was stopped goes on where it was, one that is finished is not made
again. One that fails is said so and leaves the others to go on. On a GPU, several jobs share it.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import RESULTS, about, cores

from penstock.files import write_atomic
from penstock.learn.dense import WEIGHTS_FILE
from penstock.learn.runs import FIGURES_FILE
from penstock.nn.checkpoint import CHECKPOINT_FILE
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE
from penstock.report.evaluation import evaluate
from penstock.report.observation import observe

STUDY = Path(__file__).with_name("study.toml")
ENDS = (CHECKPOINT_FILE, WEIGHTS_FILE, SUB_ARCHITECTURES_FILE)  # what a finished run has one of


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Attributes:
        name: of its folder.
        arguments: of ``penstock``, without ``--out``; ``{runs}`` stands for the folder of all runs.
        needs: names of the runs that it starts from.
    """

    name: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def finished(self, runs: Path) -> bool:
        """Whether its result is there."""
        return any((runs / self.name / end).is_file() for end in ENDS)


def main() -> int:
    """Train what is wanted, then measure all that is finished."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="names of the runs wanted")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")
    parser.add_argument("--measure", action="store_true", help="train nothing")
    parsed = parser.parse_args()
    study = read_study(STUDY)
    failed: set[str] = set()
    if not parsed.measure:
        failed = train(wanted(study, parsed.only or ["*"]), parsed.runs, parsed.jobs)
    rows = [
        measure(run, parsed.runs)
        for run in study.values()
        if (parsed.runs / run.name / CHECKPOINT_FILE).is_file()
    ]
    dense = {
        run.name: _dense(run, parsed.runs)
        for run in study.values()
        if (parsed.runs / run.name / WEIGHTS_FILE).is_file()
    }
    results = {"machine": about(), "dense": dense, "rows": rows}
    write_atomic(RESULTS / "learning.json", json.dumps(results, indent=2) + "\n")
    for name in sorted(failed):
        print(f"{name} failed: see {parsed.runs / name}.log", file=sys.stderr)
    return 1 if failed else 0


def read_study(file: Path) -> dict[str, Run]:
    """The runs by name, in the order of the file."""
    tables = tomllib.loads(file.read_text(encoding="utf-8"))["run"]
    return {
        table["name"]: Run(table["name"], tuple(table["command"].split()), tuple(table.get("needs", ())))
        for table in tables
    }


def wanted(study: Mapping[str, Run], patterns: Iterable[str]) -> list[Run]:
    """Runs whose name fits a pattern, and all that they need, in the order of the study."""
    names = {name for name in study if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}
    for name in reversed(list(study)):  # what a run needs stands before it
        if name in names:
            names.update(study[name].needs)
    return [run for run in study.values() if run.name in names]


def train(order: list[Run], runs: Path, jobs: int) -> set[str]:
    """Run all that is not finished, each when what it needs is; gives the names of those that failed."""
    runs.mkdir(parents=True, exist_ok=True)
    ended = {run.name for run in order if run.finished(runs)}
    waiting = [run for run in order if run.name not in ended]
    failed: set[str] = set()
    going: dict[Future[bool], Run] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or going:
            for run in [run for run in waiting if failed.intersection(run.needs)]:
                failed.add(run.name)
                waiting.remove(run)
            ready = [run for run in waiting if ended.issuperset(run.needs)]
            for run in ready[: jobs - len(going)]:
                waiting.remove(run)
                going[pool.submit(_penstock, run, runs, jobs)] = run
            if not going:
                continue
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                run = going.pop(future)
                (ended if future.result() else failed).add(run.name)
                print(f"{run.name}: {'finished' if future.result() else 'failed'}", flush=True)
    return failed


def _penstock(run: Run, runs: Path, jobs: int) -> bool:
    """One run in a process of its own, its words in a log beside its folder."""
    arguments = [argument.format(runs=runs) for argument in run.arguments]
    command = [sys.executable, "-m", "penstock.cli", *arguments, "--out", str(runs / run.name)]
    threads = max(1, cores() // jobs)
    print(f"{run.name}: {' '.join(arguments)}", flush=True)
    with (runs / f"{run.name}.log").open("a", encoding="utf-8") as log:
        done = subprocess.run(
            command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=False
        )
    return done.returncode == 0


def measure(run: Run, runs: Path) -> dict[str, Any]:
    """A finished run's figures on held-out images; measured once, and kept beside the run's own."""
    kept = runs / run.name / "evaluation.json"
    if not kept.is_file():
        figures = evaluate(observe(str(runs / run.name)))
        write_atomic(kept, json.dumps(figures.to_json(), indent=2) + "\n")
    row: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    row["config"] = json.loads((runs / run.name / "config.json").read_text(encoding="utf-8"))
    return row | {"name": run.name, "command": " ".join(run.arguments)}


def _dense(run: Run, runs: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((runs / run.name / FIGURES_FILE).read_text(encoding="utf-8"))
    return figures


if __name__ == "__main__":
    sys.exit(main())
