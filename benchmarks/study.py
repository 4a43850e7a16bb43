r"""Train and measure the networks behind the tables on learning, and write ``results/learning.json``.

    python benchmarks/study.py                      # everything in study.toml that is not finished
    python benchmarks/study.py --only 'resnet20*'   # some of it, and what that needs
    python benchmarks/study.py --jobs 2             # two runs at a time, which share the cores
    python benchmarks/study.py --measure            # only measure what is finished

``study.toml`` lists the runs: a command of ``penstock`` with its options, and the names of the runs that it needs.
Every run has a folder under ``--runs``; a run that was stopped goes on where it was, one that is finished is not made
again. One that fails is said so and leaves the others to go on. On a GPU, several jobs share it. Rows of runs that are
not chosen, or whose folders lie on another machine, stay in the results as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from machine import RESULTS, cores
from study_rows import collect
from study_runs import Run, lineage, matching, read_study

from penstock.files import write_atomic


def main() -> int:
    """Train what is wanted, then measure it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="names of the runs wanted")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")
    parser.add_argument("--measure", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parsed = parser.parse_args()
    study = read_study()
    try:
        chosen = matching(study, parsed.only or ["*"])
    except LookupError as error:
        parser.error(str(error))
    failed: dict[str, str] = {}
    if not parsed.measure:
        order = lineage(study, chosen)
        chosen = {run.name for run in order}
        failed = train(order, parsed.runs, parsed.jobs)
    file = parsed.out / "learning.json"
    results = collect(study, parsed.runs, chosen, file)
    write_atomic(file, json.dumps(results, indent=2) + "\n")
    for name, reason in sorted(failed.items()):
        print(f"{name} {reason}", file=sys.stderr)
    return 1 if failed else 0


def train(order: list[Run], runs: Path, jobs: int) -> dict[str, str]:
    """Run all that is not finished, each when what it needs is; gives the names of those that failed, and why."""
    runs.mkdir(parents=True, exist_ok=True)
    ended = {run.name for run in order if run.finished(runs)}
    waiting = [run for run in order if run.name not in ended]
    failed: dict[str, str] = {}
    going: dict[Future[bool], Run] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or going:
            for run in [run for run in waiting if failed.keys() & set(run.needs)]:
                missing = ", ".join(name for name in run.needs if name in failed)
                failed[run.name] = f"was not begun: it needs {missing}"
                waiting.remove(run)
            ready = [run for run in waiting if ended.issuperset(run.needs)]
            for run in ready[: jobs - len(going)]:
                waiting.remove(run)
                going[pool.submit(_penstock, run, runs, jobs)] = run
            if not going:
                continue
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                run = going.pop(future)
                if future.result():
                    ended.add(run.name)
                else:
                    failed[run.name] = f"failed: see {runs / run.name}.log"
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


if __name__ == "__main__":
    sys.exit(main())
