from dataclasses import fields
from pathlib import Path

import pytest

from penstock.errors import ConfigurationError
from penstock.learn.config import DecoupleConfig, Schedule, read_config
from penstock.learn.presets import PRESETS
from penstock.nn.gates import GateConfig

ROOT = Path(__file__).resolve().parents[2]
LEAST = 'data = "digits"\nbackbone = "digits-cnn"\n'


def read(folder: Path, text: str) -> DecoupleConfig:
    path = folder / "config.toml"
    path.write_text(text + LEAST if "[" not in text else text.replace("[", LEAST + "[", 1), encoding="utf-8")
    return read_config(path)


def test_penstock_is_what_counts_without_a_preset(tmp_path: Path) -> None:
    plain = DecoupleConfig(data="digits", backbone="digits-cnn")
    assert read(tmp_path, "") == read(tmp_path, 'preset = "penstock"\n') == plain


def test_paper_is_what_the_release_does(tmp_path: Path) -> None:
    paper = read(tmp_path, 'preset = "paper"\n')
    assert paper.decouple == Schedule(
        epochs=200, learning_rate=0.1, batch_size=128, weight_decay=1e-4, decay="steps"
    )
    assert (paper.alignment, paper.mutual_information, paper.sparsity, paper.density) == (
        1.0,
        0.01,
        1.5e-4,
        0.0,
    )
    assert (paper.budget_weight, paper.distillation, paper.settle, paper.ramp) == (0.0, 0.0, 0.0, 0.0)
    assert paper.gate == GateConfig(normalize=False, start="kaiming", initial_logit=1.0, reduction=4)
    assert paper.views >= paper.decouple.epochs


def test_paper_leaves_nothing_that_shapes_the_training_to_the_defaults() -> None:
    # Which network and data, what only matters with a budget or a teacher, and what is no part of the training.
    free = {"data", "backbone", "start", "normalize", "dense", "budget", "approach", "teacher", "temperature"}
    free |= {"fresh_classifier", "fpr", "seed"}
    assert set(PRESETS["paper"]) == {item.name for item in fields(DecoupleConfig)} - free
    assert set(PRESETS["paper"]["decouple"]) == {item.name for item in fields(Schedule)}
    assert set(PRESETS["paper"]["gate"]) == {item.name for item in fields(GateConfig)}


def test_keys_of_the_file_come_on_top_and_tables_are_merged(tmp_path: Path) -> None:
    config = read(tmp_path, 'preset = "paper"\nsparsity = 0.5\n[decouple]\nepochs = 3\n')
    assert config.sparsity == 0.5
    assert config.mutual_information == 0.01
    assert (config.decouple.epochs, config.decouple.decay) == (3, "steps")
    assert read(tmp_path, 'preset = "paper"\n').decouple.epochs == 200  # the preset itself is as it was


@pytest.mark.parametrize("name", ['"papers"', "3", "['paper']"])
def test_an_unknown_preset_is_refused_with_those_that_there_are(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(LEAST + f"preset = {name}\n")
    with pytest.raises(ConfigurationError, match=r"no preset .*; there are paper, penstock") as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_a_preset_does_not_excuse_a_wrong_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"decouple is 3; it must be a table"):
        read(tmp_path, 'preset = "paper"\ndecouple = 3\n')


def test_the_page_on_decoupling_shows_the_presets_as_they_are(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "decoupling.md").read_text(encoding="utf-8")
    lines = page.split("<!-- presets -->")[1].split("<!-- /presets -->")[0].strip().splitlines()
    heading, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines)
    configs = {name: read(tmp_path, f'preset = "{name}"\n').to_json() for name in PRESETS}
    assert set(heading[1:]) == set(configs)
    shown = set()
    for key, *cells in rows:
        for name, cell in zip(heading[1:], cells, strict=True):
            value: object = configs[name]
            for part in key.split("."):
                value = value[part]  # type: ignore[index]
            assert cell == (str(value).lower() if isinstance(value, bool) else f"{value}"), (key, name)
        shown.add(key)
    differing = {
        f"{table}{key}"
        for table, default, paper in (
            ("", configs["penstock"], configs["paper"]),
            *((f"{key}.", configs["penstock"][key], configs["paper"][key]) for key in ("decouple", "gate")),
        )
        for key, value in default.items()
        if value != paper[key] and not isinstance(value, dict)
    }
    assert differing <= shown
