"""What `penstock evaluate` and its like say of a run folder that holds no checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import main
from penstock.errors import NotFoundError, PenstockError, UnsupportedError
from penstock.learn import runs
from penstock.learn.config import DecoupleConfig
from penstock.learn.consolidate_config import ConsolidateConfig
from penstock.learn.dense import DenseConfig
from penstock.learn.disentangle_config import DisentangleConfig
from penstock.learn.observe_config import ObserveConfig
from penstock.nn.checkpoint import find_source
from penstock.nn.run_folders import CONFIG_FILE, WEIGHTS_FILE
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE

CONFIGS: dict[str, Mapping[str, Any]] = {
    "decouple": DecoupleConfig(data="digits", backbone="digits-cnn").to_json(),
    "train": DenseConfig(data="digits", backbone="digits-cnn").to_json(),
    "disentangle": DisentangleConfig(data="digits", backbone="digits-cnn", start="dense.th").to_json(),
    "consolidate": ConsolidateConfig(count=2).to_json() | {"source": {}},
    "observe": ObserveConfig().to_json() | {"source": {}, "dense": True, "data": "digits"},
    "cascade": {"first": {}, "second": {}, "budget": 0.5, "blend": 0.1, "fpr": 0.05, "data": "digits"},
}


@pytest.mark.parametrize("command", CONFIGS)
def test_a_run_that_has_not_ended_is_named_with_what_to_call(command: str, tmp_path: Path) -> None:
    runs.claim(tmp_path, CONFIGS[command])
    with pytest.raises(NotFoundError) as error:
        find_source(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path} is a run of `penstock {command}` that has not ended: call it again with the same configuration "
        f"and --out {tmp_path}, and it goes on where it stopped"
    )


@pytest.mark.parametrize(
    ("command", "result", "remedy"),
    [
        (
            "train",
            WEIGHTS_FILE,
            'a dense network, without paths: .*decouple` with `start = ".*weights.safetensors"`',
        ),
        ("disentangle", SUB_ARCHITECTURES_FILE, "sub-architectures of classes.*`penstock report` shows them"),
    ],
)
def test_a_run_with_another_result_is_named_with_what_it_is_good_for(
    command: str, result: str, remedy: str, tmp_path: Path
) -> None:
    runs.claim(tmp_path, CONFIGS[command])
    (tmp_path / result).touch()
    with pytest.raises(UnsupportedError, match=f"is a run of `penstock {command}`; it holds {remedy}"):
        find_source(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[3]", '{"wings": 2}', "not JSON"])
def test_a_folder_that_is_no_run_is_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(PenstockError, match="no run folder, checkpoint file or zoo entry"):
        find_source(str(tmp_path))


def test_commands_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "short.toml").write_text(
        'data = "digits"\nbackbone = "digits-cnn"\ntrain = { epochs = 1, batch_size = 200 }\n'
    )
    run = str(tmp_path / "dense")
    assert main(["train", "--config", str(tmp_path / "short.toml"), "--out", run]) == 0
    assert json.loads(capsys.readouterr().out)
    commands = (
        ["evaluate", run],
        ["report", run, "--out", str(tmp_path / "page.html")],
        ["consolidate", run, "--prototypes", "2", "--out", str(tmp_path / "new")],
    )
    for command in commands:
        assert main(command) != 0
        assert f"{run} is a run of `penstock train`; it holds a dense network" in capsys.readouterr().err
