"""Plans are carried out: what is made, what fails alone, and what is shown of it."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from dataclasses import replace
from io import StringIO
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from penstock.bundle import read_bundle, versions
from penstock.cli import main
from penstock.export.options import ExportOptions
from penstock.export.plans.display import watching
from penstock.export.plans.outcome import FAILED, MADE, THERE, Outcome
from penstock.export.plans.table import outcome_table
from penstock.export.plans.workers import run_all
from tests.export.plans.plan_files import plan_file, results, run_plan


def test_a_plan_makes_what_is_not_there_and_only_that(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        shutil.copy(checkpoints / "0.safetensors", tmp_path / f"{name}.safetensors")

    def plan(flags: str) -> Path:
        return plan_file(
            tmp_path,
            f"""
            repository = "{tmp_path}/models"
            [[export]]
            source = ["{tmp_path}/a.safetensors", "{tmp_path}/b.safetensors"]
            dense = true
            name = "{{source}}"
            [[export]]
            source = "{tmp_path}/c.safetensors"
            lowering = "masked"
            flags = {flags}
            name = "{{source}}-{{lowering}}"
            """,
        )

    code, told = run_plan(plan("true"), "--jobs", "2")
    assert code == 1
    assert results(told) == {"a": (MADE, "1"), "b": (MADE, "1"), "c-masked": (FAILED, None)}
    assert list(told) == ["a", "b", "c-masked"]  # as in the plan, whichever was done first
    assert "holds no detector" in told["c-masked"]["error"]
    assert (told["a"]["lowering"], told["a"]["static"], told["a"]["macs"]) == ("dense", False, 1.0)
    assert told["a"]["size"] == read_bundle(Path(told["a"]["version"])).model_file.stat().st_size
    shown = capsys.readouterr()
    assert "plan.toml: 3 of 3" in shown.out
    assert re.search(r"c-masked +│ failed ", shown.out)
    assert "- a: compiling the dense network" in shown.err
    assert "[3/3]" in shown.err

    code, told = run_plan(plan("true"), "--jobs", "1")
    assert code == 1  # what failed is tried again, and fails again
    assert results(told) == {"a": (THERE, "1"), "b": (THERE, "1"), "c-masked": (FAILED, None)}

    shutil.copy(checkpoints / "1.safetensors", tmp_path / "b.safetensors")
    code, told = run_plan(plan("false"), "--jobs", "1")
    assert code == 0
    assert results(told) == {"a": (THERE, "1"), "b": (MADE, "2"), "c-masked": (MADE, "1")}


class Killer:
    """Watches, and kills the process as soon as it says something about the entry ``victim``."""

    def began(self, home: Path) -> None:
        pass

    def said(self, home: Path, line: str) -> None:
        if home.name == "victim":
            (worker,) = active_children()
            worker.kill()

    def ended(self, outcome: Outcome) -> None:
        pass


def test_a_process_that_is_killed_fails_its_entry_alone(options: ExportOptions) -> None:
    names = ("victim", "other")
    with closing(run_all([replace(options, name=name) for name in names], 1, Killer())) as outcomes:
        victim, other = outcomes
    assert (victim.name, victim.result) == ("victim", FAILED)
    assert victim.error is not None
    assert "its process was killed, as the system does for want of memory: try fewer --jobs" in victim.error
    assert (other.name, other.result) == ("other", MADE)
    assert versions(options.repository / "victim") == []
    assert active_children() == []


def outcome(name: str, result: str, *, repository: str = "models", **more: Any) -> Outcome:
    return Outcome(name=name, repository=repository, source="x", result=result, seconds=1.0, **more)


@pytest.mark.parametrize("terminal", [True, False])
def test_models_of_one_name_in_two_repositories_are_told_apart(terminal: bool) -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=terminal, width=100)
    both = [outcome("net", FAILED, repository=each, error=f"no {each}") for each in ("here", "there")]
    with watching(2, console, several=True) as watcher:
        for each in both:
            watcher.began(each.home)
        for each in both:
            watcher.said(each.home, "compiling")
            watcher.ended(each)
    console.print(outcome_table(both, "plan"))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for folder in ("here", "there"):
        assert f"{folder}/net: failed: no {folder}" in shown
        assert re.search(rf"│ {folder}/net +│ failed", shown)
        assert terminal or f"- {folder}/net: compiling" in shown


def test_a_plan_may_make_models_of_one_name_in_two_repositories(checkpoints: Path, tmp_path: Path) -> None:
    plan = plan_file(
        tmp_path,
        f"""
        [[export]]
        source = "{checkpoints}/0.safetensors"
        repository = ["{tmp_path}/b", "{tmp_path}/a"]
        dense = true
        name = "net"
        """,
    )
    report = tmp_path / "report.json"
    assert main(["export", "--plan", str(plan), "--json", str(report), "--jobs", "2"]) == 0
    told = json.loads(report.read_text())["exports"]
    assert [(Path(each["repository"]).name, each["version"]) for each in told] == [
        (repository, f"{tmp_path}/{repository}/net/1") for repository in "ba"
    ]


def test_a_terminal_shows_who_is_at_what_and_keeps_errors() -> None:
    screen = StringIO()
    with watching(2, Console(file=screen, force_terminal=True, width=100)) as watcher:
        watcher.began(Path("models/[a]"))
        watcher.said(Path("models/[a]"), "compiling [bold]masked")
        watcher.ended(outcome("[a]", FAILED, error="[b] is too large"))
        watcher.began(Path("models/c"))
        watcher.ended(outcome("c", MADE, version="models/c/1"))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "[a]: failed: [b] is too large" in shown
    assert "2/2" in shown
    assert "models/c/1" not in shown  # the table will say that
