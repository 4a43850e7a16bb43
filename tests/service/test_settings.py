"""Settings from flags and the environment."""

from __future__ import annotations

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
