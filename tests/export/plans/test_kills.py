"""No kill leaves half of anything, and the next run completes the rest."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from penstock.bundle import INPUTS_FILE, read_bundle, versions
from penstock.export.plans.leftovers import HIDDEN
from penstock.export.plans.outcome import MADE, THERE
from penstock.export.plans.scratch import PREFIX
from tests.export.plans.plan_files import plan_file, run_plan

COUNT = 12


@pytest.fixture
def small_plan(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve bundles; temporary files of whoever makes them, here or in a process of its own, go beside them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sources = [str(checkpoints / f"{seed}.safetensors") for seed in range(3)]
    rates = [0.01, 0.02, 0.05, 0.1]
    return plan_file(
        tmp_path,
        f"""
        repository = "{tmp_path}/models"
        [[export]]
        source = {json.dumps(sources)}
        fpr = {rates}
        dense = true
        name = "{{source}}-{{fpr}}"
        """,
    )


@contextmanager
def started(plan: Path, jobs: int) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, which minds Ctrl-C even if the tests run in the background."""
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "export", "--plan", str(plan), "--jobs", str(jobs)],
        env=os.environ | {"TMPDIR": tempfile.gettempdir()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            yield process
        finally:
            with_group(process, signal.SIGKILL)


def with_group(process: subprocess.Popen[str], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def assert_nobody_is_left(group: int) -> None:
    """No process of the group; those that end with the command get a moment for it."""
    deadline = time.monotonic() + 20
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.05)
        pytest.fail("processes are left")


def count_bundles(models: Path) -> int:
    """How many versions stand; every one of them must be whole, whatever was killed."""
    found = 0
    for home in models.iterdir() if models.is_dir() else ():
        for number in versions(home):
            assert read_bundle(home / str(number)).folder.joinpath(INPUTS_FILE).is_file()
            found += 1
        unknown = [
            entry.name
            for entry in home.iterdir()
            if entry.name not in ("1", "config.pbtxt", "labels.txt") and not HIDDEN.fullmatch(entry.name)
        ]
        assert unknown == []  # a second version would mean that something was made twice
    return found


def kill_on_the_way(plan: Path, jobs: int, draw: random.Random, *, at: int) -> None:
    """Kill the whole group a random moment after ``at`` bundles stand, or shortly after it began for none."""
    models = plan.parent / "models"
    with started(plan, jobs) as process:
        while at and count_bundles(models) < at and process.poll() is None:
            time.sleep(0.02)
        deadline = time.monotonic() + draw.uniform(0.0, 2.0 if at else 8.0)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        with_group(process, signal.SIGKILL)
    count_bundles(models)


def scratch_of(plan: Path) -> list[Path]:
    """Folders for temporary files of plans that run, or were killed."""
    return list(plan.parent.glob(f"{PREFIX}*"))


def finish(plan: Path, jobs: int) -> None:
    """A run that is left alone completes the rest, and the next one finds all there."""
    before = count_bundles(plan.parent / "models")
    code, told = run_plan(plan, "--jobs", str(jobs))
    assert code == 0
    made = [entry["result"] for entry in told.values()]
    assert made.count(THERE) >= before
    assert made.count(THERE) + made.count(MADE) == COUNT
    assert count_bundles(plan.parent / "models") == COUNT


def test_kills_leave_no_half_bundle_and_the_next_run_completes_the_rest(small_plan: Path) -> None:
    draw = random.Random(0)
    for at in (2, 7):
        kill_on_the_way(small_plan, 1, draw, at=at)
        assert len(scratch_of(small_plan)) == 1  # and the second run took away what the first one left
    finish(small_plan, 1)
    assert scratch_of(small_plan) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_at_many_moments_leave_no_half_bundle(
    small_plan: Path, record_property: Callable[[str, object], None]
) -> None:
    models = small_plan.parent / "models"
    stood = []  # whole bundles after each kill
    for seed in range(20):
        draw = random.Random(seed)
        standing_now = count_bundles(models)
        if standing_now >= COUNT - 2:
            finish(small_plan, 2)
            shutil.rmtree(models)
            standing_now = 0
        kill_on_the_way(small_plan, 2, draw, at=draw.choice((0, standing_now + 1, standing_now + 2)))
        stood.append(count_bundles(models))
    record_property("whole bundles of 12 after each kill", ", ".join(map(str, stood)))
    finish(small_plan, 2)


def test_an_interrupt_ends_the_processes_and_tells_what_is_done(small_plan: Path) -> None:
    models = small_plan.parent / "models"
    with started(small_plan, 1) as process:
        while count_bundles(models) < 1 and process.poll() is None:
            time.sleep(0.02)
        with_group(process, signal.SIGINT)  # as a terminal does on Ctrl-C: to parent and workers
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert_nobody_is_left(process.pid)
    assert re.search(r"plan\.toml, interrupted: \d+ of 12", out)
    assert "Traceback" not in err
    assert not [
        entry for home in models.iterdir() for entry in home.iterdir() if HIDDEN.fullmatch(entry.name)
    ]
    count_bundles(models)
