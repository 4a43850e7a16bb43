"""Plans as files, the command that carries them out, and a network that takes no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from penstock.cli import main
from penstock.export.options import ExportOptions
from penstock.export.plans.plan import read_plan
from penstock.nn.assembly import Member, assemble
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.gates import GateConfig


def plan_file(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def entries(folder: Path, text: str, **over: Any) -> list[ExportOptions]:
    return [entry.options for entry in read_plan(plan_file(folder, text), **over)]


def untrained(seed: int) -> Checkpoint:
    """Five small convolutions, of no data set: checked on synthetic images, which takes the least time."""
    torch.manual_seed(seed)
    dense = build_backbone("digits-cnn", 3).eval()
    members = (Member(gate=GateConfig()),)
    return Checkpoint(
        backbone="digits-cnn",
        class_names=("a", "b", "c"),
        input_shape=(1, 8, 8),
        members=members,
        network=assemble(dense, torch.zeros(1, 1, 8, 8), members).eval(),
        dense=dense,
    )


def run_plan(plan: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code of the command and what became of each entry."""
    report = plan.with_suffix(".json")
    code = main(["export", "--plan", str(plan), "--json", str(report), *arguments])
    told = json.loads(report.read_text(encoding="utf-8"))
    report.unlink()
    return code, {entry["name"]: entry for entry in told["exports"]}


def results(told: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {
        name: (entry["result"], entry["version"] and Path(entry["version"]).name)
        for name, entry in told.items()
    }
