from pathlib import Path

import pytest

from penstock.errors import ConfigurationError, NotFoundError
from penstock.learn.disentangle_config import DisentangleConfig, MeasureConfig
from penstock.learn.reading import read

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "disentangle"
LEAST = 'data = "digits"\nbackbone = "digits-cnn"\nstart = "dense.pth"\n'


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_configurations_that_come_with_the_project_are_read(path: Path) -> None:
    assert read(DisentangleConfig, path).beta


def test_a_file_is_read_with_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(LEAST + "beta = [0.02, 1]\n[measure]\nmosaics = 7\nmask_rates = [0.2]\n")
    config = read(DisentangleConfig, file)
    assert (config.data, config.backbone, config.start) == ("digits", "digits-cnn", "dense.pth")
    assert config.beta == (0.02, 1.0)
    assert config.measure == MeasureConfig(mosaics=7, mask_rates=(0.2,))
    assert (config.form, config.step_size, config.batch_size) == ("release", 0.1, 16)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('form = "kl"', "no form 'kl'; there are release, bottleneck"),
        ("beta = []", "a list of weights"),
        ("beta = [-1.0]", "a list of weights, 0 or more"),
        ("beta = [0.1, 0.1]", "every weight once"),
        ("beta = 0.1", r"beta is 0\.1"),
        ("keep = 0.0", r"keep is 0\.0"),
        ("steps = 0", "steps is 0; it must be at least 1"),
        ("step_size = -0.1", r"step_size is -0\.1; it must be positive"),
        ("noise = 0.0", "noise is 0.0"),
        ("images = 0", "images is 0"),
        ("initial = inf", "initial is inf"),
        ("seed = -1", "seed is -1"),
        ('precision = "16-mixed"', "no precision '16-mixed'"),
        ("steps = 1.5", r"steps is 1\.5"),
        ("epochs = 3", "unknown key 'epochs'; known are backbone, batch_size"),
        ("measure = 3", r"measure is 3; it must be a table, \[measure\]"),
        ("[normalize]\nmean = [0.5]\nstd = [0.0]", r"std is \[0\.0\]; it must be positive"),
        ("[measure]\nmosaic = 3", r"\[measure\]: unknown key 'mosaic'"),
        ("[measure]\nmask_rates = [5.0]", "shares between 0 and 1"),
        ("[measure]\nimages = 0", "images is 0; it must be at least 1"),
        ("data", "is not TOML"),
    ],
)
def test_what_cannot_be_right_is_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f"{LEAST}{line}\n")
    with pytest.raises(ConfigurationError, match=message) as error:
        read(DisentangleConfig, file)
    assert str(file) in str(error.value)


def test_missing_files_and_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no configuration file"):
        read(DisentangleConfig, tmp_path / "nothing.toml")
    file = tmp_path / "run.toml"
    file.write_text('data = "digits"\n')
    with pytest.raises(ConfigurationError, match="'backbone' and 'start'"):
        read(DisentangleConfig, file)
