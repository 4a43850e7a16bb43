"""What a plan asks for, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytest

from penstock.cli import main
from penstock.errors import ConfigurationError, InvalidArgumentError, NotFoundError
from penstock.export.options import ExportOptions
from penstock.export.plans.names import RUN_FILE, fill, source_name
from penstock.export.plans.plan import read_plan
from penstock.export.plans.values import choices, convert
from penstock.nn.checkpoint import CHECKPOINT_FILE
from tests.export.plans.plan_files import entries, plan_file

ROOT = Path(__file__).resolve().parents[3]


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
