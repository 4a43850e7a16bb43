"""Settings from flags and the environment."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from penstock.errors import ConfigurationError
from penstock.service.settings import Settings


def test_defaults() -> None:
    settings = Settings.read({}, model_repository="models")
    assert settings == Settings(model_repository=Path("models"))
    assert (settings.host, settings.grpc_port, settings.metrics_port) == ("127.0.0.1", 8001, 8002)
    assert settings.max_message_bytes == 64 * 2**20
    assert settings.parallelism >= 1


def test_every_setting_has_its_row_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `--([a-z-]+)` \| `PENSTOCK_([A-Z_]+)` \|", page, re.MULTILINE)
    names = sorted(field.name for field in fields(Settings))
    assert sorted(flag.replace("-", "_") for flag, _ in rows) == names
    assert sorted(variable.lower() for _, variable in rows) == names


def test_flag_wins_over_environment_and_environment_over_default() -> None:
    environ = {
        "PENSTOCK_MODEL_REPOSITORY": "/models",
        "PENSTOCK_GRPC_PORT": "9000",
        "PENSTOCK_METRICS_PORT": "9001",
        "PENSTOCK_REQUIRE_GPU": "yes",
        "PENSTOCK_HOST": "",
        "PENSTOCK_DATA": "elsewhere",
    }
    settings = Settings.read(environ, metrics_port=0, require_gpu=None)
    assert settings == Settings(
        model_repository=Path("/models"), grpc_port=9000, metrics_port=0, require_gpu=True
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("GRPC_PORT", "http", "PENSTOCK_GRPC_PORT is 'http'; that is no int"),
        ("REQUIRE_GPU", "maybe", "PENSTOCK_REQUIRE_GPU is 'maybe'; that is no bool"),
        ("GRACE_SECONDS", "nan", "grace_seconds is nan"),
        ("METRICS_PORT", "65536", "metrics_port is 65536; it must be 0"),
        ("MAX_QUEUE", "0", "max_queue is 0"),
        ("MAX_MESSAGE_MIB", "4096", "max_message_mib is 4096"),
        ("THREADS", "-1", "threads is -1"),
        ("PROFILE_WINDOW", "0", "profile_window is 0"),
        ("LOG_LEVEL", "loud", "log_level is 'loud'"),
        ("MODEL_CONTROL_MODE", "often", "model_control_mode is 'often'; it must be none, poll or explicit"),
        ("REPOSITORY_POLL_SECS", "0", "repository_poll_secs is 0.0; it must be above 0"),
        ("SYSTEM_SHARED_MEMORY", "some", "PENSTOCK_SYSTEM_SHARED_MEMORY is 'some'; that is no bool"),
    ],
)
def test_wrong_value_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Settings.read({f"PENSTOCK_{name}": value, "PENSTOCK_MODEL_REPOSITORY": "models"})


def test_wrong_flag_is_named() -> None:
    with pytest.raises(ConfigurationError, match="--grpc-port is 'http'"):
        Settings.read({}, model_repository="models", grpc_port="http")
    with pytest.raises(ConfigurationError, match="no such settings: colour"):
        Settings.read({}, model_repository="models", colour="blue")


def test_repository_must_be_named() -> None:
    with pytest.raises(ConfigurationError, match="pass --model-repository or set PENSTOCK_MODEL_REPOSITORY"):
        Settings.read({})


def test_file_stands_between_environment_and_default(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('model_repository = "models"\ngrpc_port = 1\nmetrics_port = 2\nrequire_gpu = true\n')
    settings = Settings.read({"PENSTOCK_METRICS_PORT": "3", "PENSTOCK_CONFIG": str(file)}, host="::1")
    assert settings == Settings(
        model_repository=Path("models"), grpc_port=1, metrics_port=3, host="::1", require_gpu=True
    )
    assert Settings.read({"PENSTOCK_CONFIG": "elsewhere"}, config=file).grpc_port == 1


def test_names_are_a_list_in_the_file_a_repeated_flag_and_a_text_with_commas(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('model_repository = "models"\nload_model = ["one", "two"]\n')
    assert Settings.read({}, config=file).load_model == ("one", "two")
    environ = {"PENSTOCK_LOAD_MODEL": "three, four"}
    assert Settings.read(environ, config=file).load_model == ("three", "four")
    assert Settings.read(environ, config=file, load_model=["five", "six"]).load_model == ("five", "six")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grpc_prot = 1", "has 'grpc_prot', which is no setting; did you mean 'grpc_port'"),
        ('grpc_port = "http"', r"grpc_port in '.*' is 'http'; that is no int"),
        ("grpc_port = [1]", r"is \[1\]; that is no int"),
        ("grpc_port", "are no TOML"),
        ('tls_key = "key.pem"', "tls_certificate and tls_key go together"),
        ("sink_file_mib = 300", "sink_total_mib is 256; it must be sink_file_mib, 300, or more"),
        ('flag_policy = "applaud"', "flag_policy is 'applaud'; it must be annotate, reject or shadow"),
        ("load_model = [1]", r"load_model in '.*' is \[1\]; that is no list of names"),
        ("load_model = 1", "is 1; that is no list of names"),
    ],
)
def test_mistake_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "serve.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        Settings.read({}, config=tmp_path / "serve.toml", model_repository="models")
