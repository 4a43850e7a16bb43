"""The study: its list says what its commands do, and what was measured once stays."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import study as script
import study_rows
from study_rows import EVALUATION_FILE, collect, epochs
from study_runs import Row, Run, lineage, matching, read_study

from penstock.nn.checkpoint import CHECKPOINT_FILE

ROOT = Path(__file__).resolve().parents[2]
STUDY = read_study()
LONG = 10  # epochs; more are a longer training
LISTED = [run for run in STUDY.values() if run.row is not None]


def option(run: Run, name: str) -> str | None:
    """What follows an option, or ``--set NAME=``."""
    for key, value in zip(run.arguments, run.arguments[1:], strict=False):
        if key == name:
            return value
        if key == "--set" and value.startswith(f"{name}="):
            return value.partition("=")[2]
    return None


def seed_of(run: Run) -> str | None:
    """What its command says, or else, as a cascade learns nothing, the commands of those that it puts together."""
    said = option(run, "seed")
    return seed_of(STUDY[run.needs[0]]) if said is None and run.arguments[0] == "cascade" else said


@pytest.mark.parametrize("run", LISTED, ids=lambda run: run.name)
def test_a_row_says_what_the_command_does(run: Run) -> None:
    assert run.row is not None
    file = option(run, "--config")
    config = tomllib.loads((ROOT / file).read_text(encoding="utf-8")) if file else {}
    budget = option(run, "--budget") or option(run, "budget") or config.get("budget")
    assert run.row.budget == (None if budget is None else pytest.approx(float(budget), abs=0.006))
    assert run.row.seed == int(seed_of(run) or config.get("seed", 0))
    prototypes = option(run, "--prototypes")
    kind = {"decouple": "gates", "consolidate": f"k{prototypes}", "cascade": "cascade-dense"}[
        run.arguments[0]
    ]
    if config.get("preset") == "paper":
        kind = "paper"
    elif option(run, "grouping") == "difficulty":
        kind = f"graded{prototypes}"
    elif option(run, "align"):
        kind += "-aligned"
    elif kind in ("k1", "k4") and config["tune"]["epochs"] > LONG:
        kind += "-long"
    elif option(run, "gate.normalize") == "false":
        kind += "-plain"
    elif option(run, "mutual_information") == "0.0":
        kind += "-uninformed"
    elif run.row.kind == "gates-short":  # what these two are compared with
        kind += "-short"
    assert run.row.kind == kind
    if "backbone" in config:
        assert run.row.network == config["backbone"]


@pytest.mark.parametrize("run", STUDY.values(), ids=lambda run: run.name)
def test_a_run_needs_what_its_command_names(run: Run) -> None:
    named = {part.partition("{runs}/")[2].split("/")[0] for part in run.arguments if "{runs}/" in part}
    assert named == set(run.needs)
    names = list(STUDY)
    assert all(names.index(need) < names.index(run.name) for need in run.needs)


def test_no_two_runs_stand_in_the_same_place() -> None:
    assert len({run.row for run in LISTED}) == len(LISTED)


def test_a_kind_or_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no kind 'k3'"):
        Row(network="resnet20", kind="k3")
    with pytest.raises(LookupError, match="no run of the study is named resnet2x"):
        matching(STUDY, ["resnet20-k1-*", "resnet2x"])


def test_a_run_brings_what_it_needs() -> None:
    names = [run.name for run in lineage(STUDY, matching(STUDY, ["resnet20-cascade-25"]))]
    assert names == ["resnet20-seed2", "resnet20-seed2-k1-20", "resnet20-cascade-25"]


def test_what_needs_a_failed_run_fails_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [Run("a", ()), Run("b", (), ("a",)), Run("c", (), ("b",)), Run("d", ())]
    begun = []

    def penstock(run: Run, *_: object) -> bool:
        begun.append(run.name)
        return run.name != "a"

    monkeypatch.setattr(script, "_penstock", penstock)
    assert script.train(runs, tmp_path, 1) == {
        "a": f"failed: see {tmp_path / 'a'}.log",
        "b": "was not begun: it needs a",
        "c": "was not begun: it needs b",
    }
    assert begun == ["a", "d"]


@pytest.fixture
def runs(tiny_run: Path, tmp_path: Path) -> Path:
    """A folder of runs with a finished one, ``gated``, and one that came from it."""
    folder = tmp_path / "runs"
    shutil.copytree(tiny_run, folder / "gated")
    (folder / "few").mkdir()
    (folder / "few" / "config.json").write_text('{"tune": {"epochs": 3}}')
    return folder


GATED = Run("gated", ("decouple",), (), Row(network="resnet20", kind="gates", budget=0.5))
LIST = {"gated": GATED, "few": Run("few", ("consolidate",), ("gated",)), "other": Run("other", ())}


def test_a_row_is_measured_once_for_each_checkpoint(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "learning.json"
    results = collect(LIST, runs, set(LIST), file)
    (row,) = results["rows"]  # the others are not finished
    assert (row["name"], row["row"]["kind"], row["epochs"], row["images"]) == ("gated", "gates", [8], 498)
    assert row["input_dependent"] <= row["varying"]
    assert row["machine"]["cores"] > 0
    assert row["config"]["data"] == "digits"
    measured: list[str] = []
    monkeypatch.setattr(study_rows, "observe", measured.append)
    assert collect(LIST, runs, set(LIST), file) == results
    assert measured == []
    kept = json.loads((runs / "gated" / EVALUATION_FILE).read_text())
    for changed in ({"sha256": "of another checkpoint"}, {"part": "other images"}):
        (runs / "gated" / EVALUATION_FILE).write_text(json.dumps(kept | changed))
        measured.clear()
        with pytest.raises(AttributeError):  # of what the stand-in for `observe` gave
            collect(LIST, runs, set(LIST), file)
        assert measured == [str(runs / "gated")]


def test_rows_that_are_not_chosen_stay_but_take_their_new_place(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "learning.json"
    old = [{"name": "other", "images": 5, "row": None}, {"name": "gone", "images": 7, "row": None}]
    file.write_text(json.dumps({"dense": {"few": {"images": 3}}, "rows": old}))
    assert (runs / "gated" / CHECKPOINT_FILE).is_file()
    moved = LIST | {"other": Run("other", (), (), Row(network="resnet56", kind="paper"))}
    results = collect(moved, runs, {"few"}, file)
    place = {"network": "resnet56", "kind": "paper", "budget": None, "seed": 0, "best": False}
    assert results == {
        "dense": {"few": {"images": 3}},
        "rows": [{"name": "other", "images": 5, "row": place}],
    }


def test_epochs_are_those_of_all_that_a_run_came_from(runs: Path) -> None:
    assert epochs(LIST, "few", runs) == [8, 3]
