import re
from pathlib import Path

import pytest

from penstock.errors import ConfigurationError, InvalidArgumentError, NotFoundError
from penstock.learn.config import DecoupleConfig, NormalizeConfig, Schedule, TeacherConfig, read_config
from penstock.nn.gates import GateConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAST = 'data = "digits"\nbackbone = "digits-cnn"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_configurations_that_come_with_the_project_are_read(path: Path) -> None:
    assert 0 < read_config(path).budget < 1


def test_only_data_and_backbone_must_be_given(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, LEAST))
    assert config == DecoupleConfig(data="digits", backbone="digits-cnn")


def test_every_key_and_table_is_read(tmp_path: Path) -> None:
    text = LEAST + (
        'start = "weights.th"\nbudget = 0.4\nseed = 3\nprecision = "bf16-mixed"\n'
        "[dense]\nepochs = 7\ndecay = 'steps'\n[decouple]\nlearning_rate = 1\nbatch_size = 9\naverage = 0.99\n"
        "[gate]\nreduction = 8\n[normalize]\nmean = [0.5, 0]\nstd = [0.25, 1]\n"
        "[teacher]\nbackbone = 'resnet56'\nstart = 'better.th'\nnormalize = { mean = [0.1], std = [0.2] }\n"
    )
    assert read_config(written(tmp_path, text)) == DecoupleConfig(
        data="digits",
        backbone="digits-cnn",
        start="weights.th",
        budget=0.4,
        seed=3,
        precision="bf16-mixed",
        dense=Schedule(epochs=7, decay="steps"),
        decouple=Schedule(learning_rate=1.0, batch_size=9, average=0.99),
        gate=GateConfig(reduction=8, normalize=True),
        normalize=NormalizeConfig(mean=(0.5, 0.0), std=(0.25, 1.0)),
        teacher=TeacherConfig(
            backbone="resnet56", start="better.th", normalize=NormalizeConfig(mean=(0.1,), std=(0.2,))
        ),
    )


def test_a_whole_number_is_the_same_configuration_as_the_float(tmp_path: Path) -> None:
    whole, point = (read_config(written(tmp_path, LEAST + f"budget = {text}")) for text in ("1", "1.0"))
    assert repr(whole.to_json()) == repr(point.to_json())


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no configuration file"):
        read_config(tmp_path / "nothing.toml")


@pytest.mark.parametrize("content", [b"budget = ", b"= 3", b"\xff\xfe", b"data = digits"])
def test_what_is_not_toml_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not TOML"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing .* 'data' and 'backbone'"),
        (LEAST + "bugdet = 0.5", "unknown key 'bugdet'; known are alignment, approach"),
        (LEAST + "[dense]\nepoch = 3", r"\[dense\]: unknown key 'epoch'; known are average, batch_size"),
        (LEAST + "dense = 3", r"dense is 3; it must be a table, \[dense\]"),
        (LEAST + 'gate = "wide"', "gate is 'wide'; it must be a table"),
        (LEAST + 'budget = "half"', "budget is 'half'; it must be of type float"),
        (LEAST + "budget = true", "budget is True; it must be of type float"),
        (LEAST + "seed = 1.5", "seed is 1.5; it must be of type int"),
        (LEAST + "start = 3", "start is 3; it must be of type str | None"),
        ("data = 3", "data is 3; it must be of type str"),
        (LEAST + "[decouple]\nepochs = 2.5", r"\[decouple\]: epochs is 2.5; it must be of type int"),
        (LEAST + "[decouple]\nepochs = true", "epochs is True"),
        (LEAST + '[gate]\nnormalize = "yes"', "normalize is 'yes'; it must be of type bool"),
        (LEAST + "[gate]\nreduction = 0", r"\[gate\]: .*reduction is 0"),
        (LEAST + "[dense]\nepochs = 0", r"\[dense\]: epochs is 0; it must be positive"),
        (LEAST + "[dense]\nlearning_rate = inf", "learning_rate is inf"),
        (LEAST + "[dense]\nlearning_rate = nan", "learning_rate is nan"),
        (LEAST + "[dense]\nweight_decay = -1", "weight_decay is -1.0"),
        (LEAST + "[dense]\nclip = -1", "clip is -1.0"),
        (LEAST + "budget = 0", "budget is 0.0; it is a share of the dense MACs"),
        (LEAST + "budget = 1.2", "budget is 1.2"),
        (LEAST + "budget = nan", "budget is nan"),
        (LEAST + "settle = 1", "settle is 1.0; it is a share of the training, 0 to 0.999"),
        (LEAST + "ramp = 1.1", "ramp is 1.1; it is a share of the training, 0 to 1"),
        (LEAST + "views = 0", "views is 0; at least 1"),
        (LEAST + "density = 1.5", "density is 1.5; it is a share of the filters"),
        (LEAST + "[decouple]\ndecay = 'linear'", r"\[decouple\]: no decay 'linear'; there are cosine, steps"),
        (LEAST + "[decouple]\naverage = 1", r"\[decouple\]: average is 1.0; a decay lies from 0"),
        (LEAST + "[normalize]\nmean = [1]\nstd = [1, 2]", r"\[normalize\]: mean has 1 values and std 2"),
        (LEAST + "[normalize]\nmean = []\nstd = []", r"\[normalize\]: mean has 0 values"),
        (LEAST + "[normalize]\nmean = [0]\nstd = [0]", r"\[normalize\]: std is \[0.0\]; it must be positive"),
        (LEAST + "[normalize]\nmean = [nan]\nstd = [1]", r"\[normalize\]: mean is \[nan\]"),
        (LEAST + "[normalize]\nmean = 0.5\nstd = [1]", r"\[normalize\]: mean is 0.5; it must be a list"),
        (LEAST + "[normalize]\nmean = ['a']\nstd = [1]", "mean is 'a'; it must be of type float"),
        (LEAST + "[teacher.normalize]\nmean = [1]", r"\[teacher.normalize\]: .*missing .* 'std'"),
        (LEAST + "[teacher]\nnormalize = 1", r"normalize is 1; it must be a table, \[teacher.normalize\]"),
        (LEAST + "[teacher]\nbackbone = 'resnet56'", r"\[teacher\]: .*missing .* 'start'"),
        (LEAST + "approach = -0.1", "approach is -0.1"),
        (LEAST + "alignment = -1", "alignment is -1.0; a weight must not be negative"),
        (LEAST + "temperature = 0", "temperature is 0.0; it must be positive"),
        (LEAST + "fpr = 0", "fpr is 0.0; a false-positive rate lies between 0 and 1"),
        (LEAST + "[decouple]\nbatch_size = 1", "batch_size of decouple is 1; gates that normalize need"),
        (LEAST + "seed = -1", "seed is -1; it must be from 0"),
        (LEAST + 'precision = "8-bit"', "no precision '8-bit'; there are 32-true"),
    ],
)
def test_a_setting_without_meaning_is_refused_with_file_key_and_value(
    text: str, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, InvalidArgumentError)


def test_changes_take_the_place_of_what_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'data = "digits"\nbackbone = "digits-cnn"\nbudget = 0.5\n[decouple]\nepochs = 9\nbatch_size = 7\n'
    )
    changes = ["budget=0.25", "decouple.epochs = 3", "start=weights/some.th", "gate.reduction=2"]
    config = read_config(file, changes)
    assert (config.budget, config.start) == (0.25, "weights/some.th")
    assert (config.decouple.epochs, config.decouple.batch_size) == (3, 7)
    assert (config.gate.reduction, config.gate.normalize) == (2, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("budget", "'budget' is not KEY=VALUE"),
        ("=3", "'=3' is not KEY=VALUE"),
        ("wings=2", "unknown key 'wings'"),
        ("budget.x=2", "budget is {'x': 2}"),
        ("budget=much", "budget is 'much'"),
    ],
)
def test_a_change_that_has_no_meaning_is_refused(change: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('data = "digits"\nbackbone = "digits-cnn"\n')
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read_config(file, [change])
