"""Plans: what they ask for, what they refuse, and that no kill leaves half of anything."""

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
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import fields, replace
from io import StringIO
from itertools import product
from multiprocessing import active_children
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from penstock.bundle import read_bundle, versions
from penstock.cli import main
from penstock.errors import ConfigurationError, InvalidArgumentError, NotFoundError
from penstock.export.options import ExportOptions
from penstock.export.pipeline import export
from penstock.export.plans.display import watching
from penstock.export.plans.inputs import INPUTS_FILE, inputs_of, standing, to_json
from penstock.export.plans.leftovers import HIDDEN, sweep
from penstock.export.plans.names import RUN_FILE, fill, source_name
from penstock.export.plans.outcome import FAILED, MADE, THERE, Outcome
from penstock.export.plans.plan import read_plan
from penstock.export.plans.scratch import PREFIX, clear_unclaimed, scratch_folder
from penstock.export.plans.table import outcome_table
from penstock.export.plans.values import choices, convert
from penstock.export.plans.workers import run_all
from penstock.files import folder_atomic, write_atomic
from penstock.nn.assembly import Member, assemble
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint
from penstock.nn.gates import GateConfig

ROOT = Path(__file__).resolve().parents[2]


def plan_file(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def entries(folder: Path, text: str, **over: Any) -> list[ExportOptions]:
    return [entry.options for entry in read_plan(plan_file(folder, text), **over)]


# What a plan asks for


def test_lists_are_multiplied_out_and_names_tell_the_entries_apart(tmp_path: Path) -> None:
    found = entries(
        tmp_path,
        """
        repository = "models"
        [defaults]
        fpr = 0.01
        max_batch = 8
        [[export]]
        source = ["zoo:small", "runs/b"]
        lowering = ["masked", "gathered"]
        fpr = 0.1
        name = "{source}-{lowering}-{fpr}"
        [[export]]
        source = "runs/c/"
        dense = true
        name = "{source}"
        """,
    )
    told = [(each.name, each.source, each.lowering, each.fpr, each.max_batch, each.dense) for each in found]
    assert told == [
        ("small-masked-0.1", "zoo:small", "masked", 0.1, 8, False),
        ("small-gathered-0.1", "zoo:small", "gathered", 0.1, 8, False),
        ("b-masked-0.1", "runs/b", "masked", 0.1, 8, False),
        ("b-gathered-0.1", "runs/b", "gathered", 0.1, 8, False),
        ("c", "runs/c/", "auto", 0.01, 8, True),
    ]
    assert {each.repository for each in found} == {Path("models")}


def test_an_entry_says_more_than_defaults_and_the_command_line_more_than_both(tmp_path: Path) -> None:
    text = """
        repository = "top"
        [defaults]
        repository = "defaults"
        data = "images"
        [[export]]
        source = "a"
        name = "a"
        [[export]]
        repository = "entry"
        source = "a"
        name = "b"
        """
    assert [str(each.repository) for each in entries(tmp_path, text)] == ["defaults", "entry"]
    over = entries(tmp_path, text, repository=Path("over"), data=Path("other"))
    assert [(each.repository, each.data) for each in over] == [(Path("over"), Path("other"))] * 2


def test_every_option_can_be_in_a_plan(tmp_path: Path) -> None:
    """A field that comes with time needs nothing here: all of them are taken as they are."""
    options = ExportOptions(source="x", repository=Path("r"), name="n")
    lines = []
    for item in fields(options):
        value = getattr(options, item.name)
        if value is not None:
            lines.append(f"{item.name} = {json.dumps(str(value) if isinstance(value, Path) else value)}")
    assert entries(tmp_path, "\n".join(["[[export]]", *lines])) == [options]


def test_the_committed_plan_can_be_read() -> None:
    for path in sorted((ROOT / "configs" / "plans").glob("*.toml")):
        assert read_plan(path)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("a", Path, [Path("a")]),
        (["a", "b"], Path | None, [Path("a"), Path("b")]),
        ([1, 2.5], float, [1.0, 2.5]),
        ("cpu", Literal["cpu", "cuda"], ["cpu"]),
        ([3, 4], int | None, [3, 4]),
        ([3, 4], tuple[int, ...], [(3, 4)]),
        ([[3, 4], []], tuple[int, ...] | None, [(3, 4), ()]),
        ([True, False], bool, [True, False]),
    ],
)
def test_values_come_in_the_types_of_their_fields(value: Any, kind: Any, expected: list[Any]) -> None:
    got = choices(value, kind)
    assert got == expected
    assert [type(each) for each in got] == [type(each) for each in expected]


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (1, str, "a text"),
        (True, int, "a whole number"),
        (1.5, int | None, "it must be a whole number$"),
        (True, float, "a number"),
        ("yes", bool, "true or false"),
        ("", Path, "a path"),
        ("tpu", Literal["cpu", "cuda"], "one of 'cpu', 'cuda'"),
        (["a"], tuple[int, ...], "a whole number"),
        ({}, str, "a text"),
    ],
)
def test_values_of_other_types_are_refused(value: Any, kind: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        convert(value, kind)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("zoo:resnet20-cifar10", "resnet20-cifar10"),
        ("runs/digits", "digits"),
        ("runs/digits/", "digits"),
        (f"runs/digits/{CHECKPOINT_FILE}", "digits"),
        ("weights/net.safetensors", "net"),
        ("timing:resnet18,density=0.5", "resnet18,density=0.5"),
    ],
)
def test_a_source_is_named_by_its_last_part(source: str, name: str) -> None:
    assert source_name(source) == name


def test_names_hold_only_what_a_folder_and_a_url_can() -> None:
    values = {"source": "timing:resnet18,density=0.5", "dense": True, "data": Path("a/b c"), "sizes": (1, 2)}
    assert fill("{source}_{dense}_{data}_{sizes}", values) == "resnet18-density-0.5_true_b-c_1-2"
    assert RUN_FILE == CHECKPOINT_FILE


# What it refuses

EXPORT = '[[export]]\nsource = "x"\nname = "n"\n'
REPOSITORY = 'repository = "r"\n'
WRONG = {
    "no toml": ("export = ", "is not TOML"),
    "nothing": (REPOSITORY, r"there is no \[\[export\]\]: add one with source and name"),
    "no tables": ("export = 3", r"export is 3: it must be tables, \[\[export\]\]"),
    "top key": (REPOSITORY + "jobs = 3\n" + EXPORT, "unknown key 'jobs'; known are repository, defaults, export"),
    "entry key": (REPOSITORY + EXPORT + "speed = 1", "entry 1: unknown key 'speed'; known are source, repository"),
    "default key": (f"{REPOSITORY}[defaults]\nspeed = 1\n{EXPORT}", r"\[defaults\]: unknown key 'speed'"),
    "no table": (f"{REPOSITORY}defaults = 1\n{EXPORT}", r"defaults is 1: it must be a table, \[defaults\]"),
    "type": (REPOSITORY + EXPORT + "threads = [1, 'two']", r"entry 1: threads is \[1, 'two'\]: it must be a whole"),
    "empty list": (REPOSITORY + EXPORT + "lowering = []", r"lowering is \[\]: a list must hold at least one"),
    "value": (
        REPOSITORY + EXPORT.replace('"n"', '"{lowering}"') + 'lowering = ["masked", "magic"]',
        "entry 1: lowering is 'magic': no lowering 'magic'; there are auto, masked",
    ),
    "range": (REPOSITORY + EXPORT + "fpr = 2", "entry 1: fpr is 2.0: fpr is 2.0; a false-positive rate lies between"),
    "no repository": (EXPORT, 'entry 1: repository is missing: write repository = "models" at the top of the plan'),
    "no name": (REPOSITORY + '[[export]]\nsource = "x"', "entry 1: name is missing: write name ="),
    "names": (REPOSITORY + EXPORT.replace('"n"', '["a", "b"]'), r"name is \['a', 'b'\]: it must be a text"),
    "field": (REPOSITORY + EXPORT.replace('"n"', '"{size}"'), r"name is '\{size\}': no field \{size\}; there are"),
    "braces": (REPOSITORY + EXPORT.replace('"n"', '"{size"'), r"name is '\{size': .*: a field is written \{source\}"),
    "no name for a folder": (REPOSITORY + EXPORT.replace('"n"', '"../n"'), "name is '../n': model name '../n': use"),
    "same name": (
        REPOSITORY + EXPORT + EXPORT + "dense = true",
        "entry 2: name is 'n' for dense True as for dense False of entry 1: put what differs into the name",
    ),
    "same name in one repository": (
        REPOSITORY + EXPORT + EXPORT + 'repository = "./x/../r/"',
        "entry 2: name is 'n' for repository .* as for repository .* of entry 1",
    ),
    "same name in one entry": (
        REPOSITORY + EXPORT + 'lowering = ["masked", "gathered"]',
        "entry 1: name is 'n' for lowering 'gathered' as for lowering 'masked' of entry 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_right_is_refused_with_place_and_remedy(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    with pytest.raises(ConfigurationError, match=message) as refused:
        entries(tmp_path, text)
    assert str(refused.value).startswith(str(tmp_path / "plan.toml"))
    assert len(str(refused.value).splitlines()) == 1


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = REPOSITORY + EXPORT + "fpr = 'low'\n" + EXPORT + "fpr = 7\nlowering = 'magic'\nspeed = 1"
    with pytest.raises(ConfigurationError) as refused:
        entries(tmp_path, text)
    first, *lines = str(refused.value).splitlines()
    assert first.endswith("plan.toml: 4 things are wrong")
    assert [line.partition(" is ")[0].partition(" '")[0].strip() for line in lines] == [
        "entry 1: fpr",
        "entry 2: unknown key",
        "entry 2: lowering",
        "entry 2: fpr",
    ]


def test_values_that_do_not_go_together_are_told_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = ExportOptions.__post_init__

    def refuse(self: ExportOptions) -> None:
        check(self)
        if self.dense and self.lowering == "masked":
            raise InvalidArgumentError("dense networks know no lowering")

    monkeypatch.setattr(ExportOptions, "__post_init__", refuse)
    with pytest.raises(
        ConfigurationError, match="entry 1: dense is True, lowering is 'masked': dense networks"
    ):
        entries(tmp_path, REPOSITORY + EXPORT + 'dense = true\nlowering = "masked"')


def test_a_plan_that_is_not_there_is_told() -> None:
    with pytest.raises(NotFoundError, match=r"no plan nowhere\.toml"):
        read_plan(Path("nowhere.toml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name SOURCE, --repository and --name, or a --plan"),
        (["x", "--name", "n"], "name SOURCE, --repository and --name, or a --plan"),
        (["x", "--plan", "p"], "source cannot stand beside --plan: write that into the plan"),
        (["--plan", "p", "--lowering", "masked", "--no-flags"], "lowering, flags cannot stand beside --plan"),
        (["x", "--repository", "r", "--name", "n", "--jobs", "2"], "--jobs goes with --plan"),
        (["x", "--repository", "r", "--name", "n", "--json", "f"], "--json goes with --plan"),
    ],
)
def test_the_command_takes_one_export_or_a_plan(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_no_jobs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_file(tmp_path, REPOSITORY + EXPORT)
    assert main(["export", "--plan", str(plan), "--jobs", "0"]) == 1
    assert "jobs is 0; at least 1 is needed" in capsys.readouterr().err


# What a bundle depends on


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


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tiny networks, ``0.safetensors`` and so on."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed in range(3):
        untrained(seed).save(folder / f"{seed}.safetensors")
    return folder


@pytest.fixture
def options(checkpoints: Path, tmp_path: Path) -> ExportOptions:
    """The export of one of them."""
    source = shutil.copy(checkpoints / "0.safetensors", tmp_path / "net.safetensors")
    return ExportOptions(source=str(source), repository=tmp_path / "models", name="net", dense=True)


def test_inputs_follow_content_and_options_not_places(options: ExportOptions, checkpoints: Path) -> None:
    inputs = inputs_of(options)
    assert inputs == inputs_of(replace(options, source=str(checkpoints / "0.safetensors"), name="other"))
    assert inputs != inputs_of(replace(options, source=str(checkpoints / "1.safetensors")))
    for change in ({"dense": False}, {"lowering": "masked"}, {"fpr": 0.1}, {"threads": 2}):
        assert inputs != inputs_of(replace(options, **change))
    assert inputs["versions"].keys() >= {"penstock", "torch", "onnx", "onnxruntime"}


def test_inputs_follow_the_images(options: ExportOptions, tmp_path: Path) -> None:
    assert inputs_of(options)["images"] is None
    replace(untrained(0), config={"data": "digits"}).save(tmp_path / "digits.safetensors")
    images = inputs_of(replace(options, source=str(tmp_path / "digits.safetensors")))["images"]
    assert list(images) == ["calibration"]
    assert re.fullmatch("[0-9a-f]{64}", images["calibration"])
    replace(untrained(0), config={"data": "cifar10"}).save(tmp_path / "cifar10.safetensors")
    with pytest.raises(NotFoundError, match="no cifar10_train"):
        inputs_of(replace(options, source=str(tmp_path / "cifar10.safetensors"), data=tmp_path))


def folder_set(root: Path, *, training_level: int) -> str:
    """The name of a data set of 60 images in two classes; of one training image the level is given."""
    draw = np.random.default_rng(0)
    for part, label, number in product(("train", "test"), ("cat", "dog"), range(15)):
        file = root / part / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        level = training_level if (part, label, number) == ("train", "cat", 3) else 0
        pixels = draw.integers(0, 200, (8, 8, 3), np.uint8) + np.uint8(level)
        Image.fromarray(pixels).save(file)
    return f"folder:{root}?size=8"


def test_inputs_follow_training_images_where_a_detector_is_fitted_to_them(
    options: ExportOptions, tmp_path: Path
) -> None:
    def images(level: int, **change: Any) -> dict[str, str]:
        name = folder_set(tmp_path / f"images{level}", training_level=level)
        source = tmp_path / f"{level}.safetensors"
        replace(untrained(0), config={"data": name}).save(source)
        found: dict[str, str] = inputs_of(replace(options, source=str(source), **change))["images"]
        return found

    assert images(0) == images(50)  # with gates or dense as they are, nobody looks at training images
    gates = str(shutil.copy(options.source, tmp_path / "gates.safetensors"))
    for change in (
        {"observe": True},
        {"dense": False, "gates": gates},
        {"dense": False, "detector": "doubt"},
    ):
        before, after = images(0, **change), images(50, **change)
        assert before["calibration"] == after["calibration"]
        assert before["train"] != after["train"]
    assert images(0, dense=False, flags=False) == images(0)


def test_inputs_of_what_no_file_holds_are_its_name(options: ExportOptions) -> None:
    assert inputs_of(replace(options, source="timing:resnet18"))["source"] == {"name": "timing:resnet18"}


def test_only_a_whole_newest_version_of_the_same_inputs_stands(options: ExportOptions) -> None:
    inputs = inputs_of(options)
    home = options.repository / options.name
    assert standing(options, inputs) is None
    made = export(options, also={INPUTS_FILE: to_json(inputs)})
    assert standing(options, inputs) == made
    assert standing(options, inputs | {"images": "other"}) is None
    shutil.copytree(home / "1", home / "2")
    with (home / "2" / "model.onnx").open("ab") as file:
        file.write(b"damaged")
    assert standing(options, inputs) is None
    shutil.rmtree(home / "2")
    for text in ("{", "[]"):
        (home / "1" / INPUTS_FILE).write_text(text)
        assert standing(options, inputs) is None
    (home / "1" / INPUTS_FILE).unlink()  # nobody says what it was made from
    assert standing(options, inputs) is None


# Leftovers


def test_old_leftovers_are_swept_up_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "net"
    monkeypatch.setattr(os, "rename", killed)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KilledError), folder_atomic(home / "12") as folder:
        (folder / "model.onnx").write_text("half")
    for name in ("config.pbtxt", "labels.txt"):
        with pytest.raises(KilledError):
            write_atomic(home / name, "half")
    monkeypatch.undo()
    left = list(home.iterdir())
    assert len(left) == 3
    assert all(HIDDEN.fullmatch(entry.name) for entry in left)
    for name in ("1", ".hidden", ".1.old", ".notes.txt.abcdefgh"):
        (home / name).mkdir()

    assert sweep([home, tmp_path / "nowhere"]) == []  # somebody may still be at work
    assert sorted(sweep([home], age=-1.0)) == sorted(left)
    assert {entry.name for entry in home.iterdir()} == {"1", ".hidden", ".1.old", ".notes.txt.abcdefgh"}


def test_only_folders_that_nobody_works_in_are_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed_one, foreign = tmp_path / f"{PREFIX}killed", tmp_path / "other"
    for folder in (killed_one, foreign):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "model.onnx").write_text("half")
    (tmp_path / f"{PREFIX}link").symlink_to(foreign)
    with scratch_folder() as mine:
        assert not killed_one.exists()
        (mine / "model.onnx").write_text("at work")
        assert clear_unclaimed() == []
        with scratch_folder() as beside:
            assert beside != mine
        assert (mine / "model.onnx").exists()
    assert sorted(tmp_path.iterdir()) == [foreign, tmp_path / f"{PREFIX}link"]
    assert (foreign / "deep" / "model.onnx").exists()


def test_a_folder_that_was_cleared_away_before_it_was_claimed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make, made = tempfile.mkdtemp, []

    def cleared_at_once(**how: str) -> str:
        made.append(make(**how))
        if len(made) == 1:
            assert clear_unclaimed() == [Path(made[0])]
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", cleared_at_once)
    with scratch_folder() as folder:
        assert [str(folder)] == made[1:]
        assert folder.is_dir()


class KilledError(Exception):
    """Stands for a kill in the middle of a system call."""


def killed(*_: object) -> None:
    raise KilledError


# Carrying it out


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


# Kills and interrupts of the whole

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
    """The command in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "penstock.cli", "export", "--plan", str(plan), "--jobs", str(jobs)],
        env=os.environ | {"TMPDIR": tempfile.gettempdir()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
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
def test_kills_at_many_moments_leave_no_half_bundle(small_plan: Path) -> None:
    models = small_plan.parent / "models"
    for seed in range(20):
        draw = random.Random(seed)
        standing_now = count_bundles(models)
        if standing_now >= COUNT - 2:
            finish(small_plan, 2)
            shutil.rmtree(models)
            standing_now = 0
        kill_on_the_way(small_plan, 2, draw, at=draw.choice((0, standing_now + 1, standing_now + 2)))
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
