"""Models that follow their folder, and stay when it goes."""

from __future__ import annotations

import asyncio
import collections
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from penstock.bundle import versions
from penstock.service.control import ModelControl
from penstock.service.polling import Polling
from penstock.service.repository import Repository
from penstock.service.settings import Settings
from tests.service.plain import add_model
from tests.service.test_control import adding, ask, index, wait_until
from tests.service.test_stress import metrics

LOST = "penstock_repository_lost_total"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    add_model(folder, "model", adding(1), "version_policy { latest { num_versions: 1 } }")
    add_model(folder, "other", adding(10))
    return folder


def test_folder_is_followed(models: Path, start: Any) -> None:
    with (
        start(models, model_control_mode="poll", repository_poll_secs=0.1) as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        assert ask(client) == 1
        (models / "model" / "2").mkdir()
        (models / "model" / "2" / "model.onnx").write_bytes(b"half a fi")
        wait_until(lambda: ("model", "2", "UNAVAILABLE") in index(client))
        assert ask(client) == 1
        onnx.save(adding(2), models / "model" / "2" / "model.onnx")
        wait_until(lambda: ask(client) == 2)
        add_model(models, "late", adding(5))
        wait_until(lambda: client.is_model_ready("late"))
        shutil.rmtree(models / "late")
        wait_until(lambda: not client.is_model_ready("late"))
        with pytest.raises(InferenceServerException, match="not allowed: the model control mode is 'poll'"):
            client.load_model("model")


def vanishes(models: Path, kept: Path) -> None:
    """A volume whose mount point goes with it."""
    models.rename(kept)


def leaves_its_mount_point(models: Path, kept: Path) -> None:
    """A volume that is not mounted any more, which no test may do: the same name, another folder, and empty."""
    models.rename(kept)
    models.mkdir()


def cannot_be_listed(models: Path, kept: Path) -> None:
    models.rename(kept)
    models.touch()


def come_back(models: Path, kept: Path) -> None:
    if models.is_dir():
        models.rmdir()
    else:
        models.unlink(missing_ok=True)
    kept.rename(models)


@pytest.mark.parametrize("lose", [vanishes, leaves_its_mount_point, cannot_be_listed])
def test_repository_that_goes_away_takes_no_model_along(
    models: Path, start: Any, lose: Callable[[Path, Path], None]
) -> None:
    kept = models.with_name("kept")
    with (
        start(models, model_control_mode="poll", repository_poll_secs=0.1) as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        for times in (1, 2):
            lose(models, kept)
            wait_until(lambda times=times: metrics(running)[LOST] == times)  # type: ignore[misc]
            time.sleep(0.5)  # some looks more
            assert (ask(client), ask(client, "other")) == (1, 10)
            assert metrics(running)[LOST] == times, "a loss is counted once"
            come_back(models, kept)
            wait_until(lambda times=times: running.log.read_text().count("is there again") == times)  # type: ignore[misc]
        said = running.log.read_text()
        assert said.count("all models serve on as they are") == 2
        assert said.count("loaded model") == 2, "what comes back unchanged is not loaded again"
        add_model(models, "model", adding(2), version=2)
        wait_until(lambda: ask(client) == 2)
        shutil.rmtree(models / "other")
        wait_until(lambda: not client.is_model_ready("other"))
        assert metrics(running)[LOST] == 2


def test_models_that_all_vanish_at_once_stay(models: Path) -> None:
    """From the same folder: no look falls between the first that goes and the last."""
    losses: list[None] = []

    async def nothing() -> None:
        pass

    async def look_for(seconds: float) -> None:
        polling = asyncio.create_task(polled.run())
        await asyncio.sleep(seconds)
        polling.cancel()

    settings = Settings(model_repository=models, model_control_mode="poll")
    repository = Repository(settings)
    polled = Polling(
        repository, ModelControl(repository, settings, nothing), 0.05, lambda: losses.append(None)
    )
    for home in models.iterdir():
        home.rename(models.parent / home.name)
    asyncio.run(look_for(0.5))
    assert (repository.ready_versions("model"), repository.ready_versions("other")) == ([1], [1])
    assert len(losses) == 1
    (models.parent / "other").rename(models / "other")
    asyncio.run(look_for(0.5))
    assert (repository.ready_versions("model"), repository.ready_versions("other")) == ([], [1])
    repository.close()


def test_repository_that_is_emptied_model_by_model_is_empty(models: Path, start: Any) -> None:
    with (
        start(models, model_control_mode="poll", repository_poll_secs=0.1) as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        for name in ("other", "model"):
            shutil.rmtree(models / name)
            wait_until(lambda name=name: not client.is_model_ready(name))  # type: ignore[misc]
        assert metrics(running)[LOST] == 0
        assert client.is_server_ready(), "nothing is meant to be served"


def test_last_model_stays_when_its_folder_becomes_another(tmp_path: Path, start: Any) -> None:
    add_model(tmp_path / "models", "model", adding(1))
    with (
        start(tmp_path / "models", model_control_mode="poll", repository_poll_secs=0.1) as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        leaves_its_mount_point(tmp_path / "models", tmp_path / "kept")
        wait_until(lambda: metrics(running)[LOST] == 1)
        assert ask(client) == 1
        add_model(tmp_path / "models", "late", adding(5))  # a new volume in its place, with other models
        wait_until(lambda: client.is_model_ready("late"))
        wait_until(lambda: not client.is_model_ready("model"))


def test_folder_that_fails_while_it_is_read_keeps_no_other_model_waiting(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test can take a folder away between two steps of a look at it, so that is imitated, once."""
    asked = collections.Counter[str]()

    def look(home: Path) -> list[int]:
        asked[home.name] += 1
        if (home.name, asked[home.name]) == ("early", 1):
            raise FileNotFoundError(2, "No such file or directory")
        return versions(home)

    async def nothing() -> None:
        pass

    async def follow(polled: Polling) -> None:
        polling = asyncio.create_task(polled.run())
        async with asyncio.timeout(10):
            while repository.ready_versions("early") != [1]:
                await asyncio.sleep(0.01)
        polling.cancel()

    settings = Settings(model_repository=models, model_control_mode="poll", repository_poll_secs=0.1)
    repository = Repository(settings)
    polled = Polling(repository, ModelControl(repository, settings, nothing), 0.1, lambda: None)
    add_model(models, "early", adding(3))
    add_model(models, "late", adding(4))
    monkeypatch.setattr("penstock.service.repository.versions", look)
    asyncio.run(follow(polled))
    assert repository.ready_versions("late") == [1]
    repository.close()


def test_change_between_load_and_first_look_is_seen(models: Path) -> None:
    """Loading takes long, and what is written meanwhile is of no look before."""

    async def nothing() -> None:
        pass

    async def follow(polled: Polling) -> None:
        polling = asyncio.create_task(polled.run())
        async with asyncio.timeout(10):
            while repository.ready_versions("model") != [2] or repository.ready_versions("late") != [1]:
                await asyncio.sleep(0.01)
        polling.cancel()

    settings = Settings(model_repository=models, model_control_mode="poll")
    repository = Repository(settings)
    add_model(models, "model", adding(2), version=2)
    add_model(models, "late", adding(3))
    shutil.rmtree(models / "other")
    asyncio.run(follow(Polling(repository, ModelControl(repository, settings, nothing), 0.05, lambda: None)))
    assert repository.ready_versions("other") == []
    repository.close()
