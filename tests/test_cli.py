"""The command line: exit codes, and errors in words instead of tracebacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from penstock import __version__
from penstock.cli import main

ROOT = Path(__file__).resolve().parents[1]


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["decouple"],
        ["consolidate"],
        ["cascade"],
        ["evaluate"],
        ["report"],
        ["export"],
        ["serve"],
        ["infer"],
        ["score"],
        ["zoo", "list"],
    ],
)
def test_help_is_there(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    assert "usage: penstock" in capsys.readouterr().out


def test_zoo_list_shows_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "list"]) == 0
    assert "zoo:resnet20" in capsys.readouterr().out


WRONG = {
    "unknown data": (["demo", "--data", "imagenet"], "no demo for 'imagenet'"),
    "no config": (
        ["decouple", "--config", "nowhere.toml", "--out", "run"],
        "no configuration file nowhere.toml",
    ),
    "no source": (
        ["export", "nowhere", "--repository", "m", "--name", "n"],
        "no run folder, checkpoint file or zoo",
    ),
    "nothing to consolidate": (
        ["consolidate", "nowhere", "--prototypes", "2", "--out", "run"],
        "no run folder, checkpoint file or zoo",
    ),
    "no prototypes": (
        ["consolidate", "nowhere", "--prototypes", "0", "--out", "run"],
        "count is 0; at least 1 is needed",
    ),
    "nothing to put in a row": (
        ["cascade", "nowhere", "nowhere", "--budget", "0.5", "--out", "run"],
        "no run folder, checkpoint file or zoo",
    ),
    "no budget for a cascade": (
        ["cascade", "nowhere", "nowhere", "--budget", "2", "--out", "run"],
        "budget is 2.0; it is a share of the dense MACs",
    ),
    "nothing to evaluate": (["evaluate", "nowhere"], "no run folder, checkpoint file or zoo"),
    "nothing to report on": (
        ["report", "nowhere", "--out", "page.html"],
        "no run folder, checkpoint file or zoo",
    ),
    "no images to evaluate on": (
        ["evaluate", "zoo:resnet20-cifar10", "--data", "nowhere"],
        "or name it with --data",
    ),
    "unknown zoo entry": (
        ["export", "zoo:alexnet", "--repository", "m", "--name", "n"],
        "no zoo entry 'alexnet'",
    ),
    "unknown lowering": (
        ["export", "nowhere", "--repository", "m", "--name", "n", "--lowering", "magic"],
        "no lowering 'magic'",
    ),
    "bad rate": (["export", "nowhere", "--repository", "m", "--name", "n", "--fpr", "1.5"], "fpr is 1.5"),
    "bad name": (["export", "nowhere", "--repository", "m", "--name", "../up"], "model name '../up'"),
    "no repository": (["serve"], "no model repository was named"),
    "bad port": (["serve", "--model-repository", ".", "--grpc-port", "99999"], "grpc_port is 99999"),
    "no server": (["infer", "--url", "127.0.0.1:1", "--model", "m", "x.png"], ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_told_in_one_line(
    case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENSTOCK_MODEL_REPOSITORY", raising=False)
    command, message = WRONG[case]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert told.startswith("penstock: error: ")
    assert message in told
    assert len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_what_the_system_refuses_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    config = ROOT / "configs" / "digits.toml"
    assert main(["decouple", "--config", str(config), "--out", str(tmp_path / "file" / "run")]) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(r"penstock: error: .*Not a directory: .*\n", told)


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export"])
    assert stopped.value.code == 2
    assert "SOURCE" in capsys.readouterr().err


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from penstock.cli.main import parser; parser(); "
        "print([name for name in ('torch', 'grpc', 'onnx', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
