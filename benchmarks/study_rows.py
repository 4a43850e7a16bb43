"""The rows of ``results/learning.json``: the figures of finished runs on test images."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import about
from study_runs import Run, lineage

from penstock.files import sha256, write_atomic
from penstock.learn.runs import FIGURES_FILE
from penstock.nn.checkpoint import CHECKPOINT_FILE
from penstock.nn.run_folders import CONFIG_FILE, WEIGHTS_FILE
from penstock.report.evaluation import evaluate
from penstock.report.observation import observe

EVALUATION_FILE = "evaluation.json"
PART = "test"  # of the images, on which a run is measured; figures of others are measured again
SCHEDULES = ("decouple", "tune")  # where a configuration says for how long paths were learned


def collect(study: Mapping[str, Run], runs: Path, chosen: Collection[str], file: Path) -> dict[str, Any]:
    """Measure the chosen runs that are finished; what ``file`` says of the others stays.

    Args:
        study: all runs.
        runs: their folder.
        chosen: names of those to measure.
        file: results of earlier calls, perhaps of another machine; need not be there.
    """
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"dense": {}, "rows": []}
    rows = {row["name"]: row for row in kept["rows"]}
    dense = dict(kept["dense"])
    for name in study:
        if name in chosen and (runs / name / CHECKPOINT_FILE).is_file():
            print(f"{name}: measuring", flush=True)
            rows[name] = measure(study, name, runs)
        elif name in chosen and (runs / name / WEIGHTS_FILE).is_file():
            dense[name] = _read(runs / name / FIGURES_FILE)
    return {
        "dense": {name: dense[name] for name in study if name in dense},
        "rows": [rows[name] | _place(study[name]) for name in study if name in rows],
    }


def measure(study: Mapping[str, Run], name: str, runs: Path) -> dict[str, Any]:
    """A finished run's figures on test images, measured once for each checkpoint, and how it was made."""
    kept = runs / name / EVALUATION_FILE
    found = _read(kept) if kept.is_file() else {}
    if found.get("part") != PART or found["sha256"] != sha256(runs / name / CHECKPOINT_FILE):
        figures = evaluate(observe(str(runs / name))).to_json() | {"part": PART, "machine": about()}
        write_atomic(kept, json.dumps(figures, indent=2) + "\n")
        found = _read(kept)  # tuples have become lists, now and not only in the next call
    return found | {
        "config": _read(runs / name / CONFIG_FILE),
        "epochs": epochs(study, name, runs),
        "command": " ".join(study[name].arguments),
    }


def epochs(study: Mapping[str, Run], name: str, runs: Path) -> list[int]:
    """For how many epochs paths were learned, in the runs that this one needs and in itself."""
    configs = [_read(runs / run.name / CONFIG_FILE) for run in lineage(study, [name])]
    return [config[part]["epochs"] for config in configs for part in SCHEDULES if part in config]


def _place(run: Run) -> dict[str, Any]:
    """As the study says now: a run may have changed its place since it was measured."""
    return {"name": run.name, "row": None if run.row is None else asdict(run.row)}


def _read(file: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return value
