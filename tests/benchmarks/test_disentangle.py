"""What is published of disentanglement is what its configurations ask for."""

from __future__ import annotations

import json
from pathlib import Path

import disentangle as benchmark
import pytest
import torch
from machine import RESULTS

from penstock.learn.disentangle_config import DisentangleConfig
from penstock.learn.reading import read
from penstock.nn.backbones import build_backbone


def test_published_figures_are_those_of_the_configurations() -> None:
    published = json.loads((RESULTS / benchmark.RESULT).read_text())["networks"]
    shipped = [read(DisentangleConfig, path) for path in benchmark.measured()]
    assert {benchmark.name_of(config) for config in shipped} == set(published)
    for config in shipped:
        entry = published[benchmark.name_of(config)]
        assert entry["start"] == benchmark.started(config)
        assert entry["settings"] == json.loads(json.dumps(benchmark.settings_of(config)))


def test_a_configuration_is_run_measured_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    (tmp_path / "some").mkdir()
    weights = tmp_path / "some" / "dense.th"
    torch.save(build_backbone("digits-cnn", 10).state_dict(), weights)
    config, missing = tmp_path / "small.toml", tmp_path / "missing.toml"
    text = 'data = "digits"\nbackbone = "digits-cnn"\nform = "bottleneck"\nsteps = 2\nbatch_size = 4\n'
    text += "[measure]\nvalidation = 5\nimages = 5\nmosaics = 2\nresamples = 20\n"
    config.write_text(f'start = "{weights}"\n{text}')
    missing.write_text(f'start = "nowhere.th"\n{text}')
    results = tmp_path / "results"
    results.mkdir()
    command = [str(missing), str(config), "--runs", str(tmp_path / "runs")]
    assert benchmark.main(command, results) == 1
    assert "missing left out: no weights to start from" in capsys.readouterr().err
    (name,), (entry,) = zip(
        *json.loads((results / benchmark.RESULT).read_text())["networks"].items(), strict=True
    )
    assert name == "digits-cnn-digits-bottleneck"
    assert entry["start"] == "some/dense.th"
    assert entry["settings"]["steps"] == 2
    assert entry["figures"]["hits"][0]["mosaics"] == 2
    assert {path.name for path in results.iterdir()} == {
        benchmark.RESULT,
        "disentangle.png",
        "confusions.png",
    }
