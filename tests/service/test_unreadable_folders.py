"""Folders of a repository that cannot be read: told once, and no reason to let go of a model.

Root may read whatever has rights only; links that lead nowhere stop everybody.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from penstock.service.contents import Contents
from tests.service.plain import add_model
from tests.service.test_control import adding, ask, wait_until
from tests.service.test_stress import metrics

UNREADABLE = "penstock_repository_unreadable_folders"
FAULT = {"loop": "Too many levels", "dangling": "No such file", "long": "File name too long"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    add_model(folder, "model", adding(1))
    add_model(folder, "other", adding(10))
    return folder


def spoil(place: Path, fault: str) -> None:
    """A link in the place of what was there, which is kept."""
    place.rename(place.parents[1] / f"kept-{place.name}")
    place.symlink_to({"loop": place.name, "dangling": "/nowhere/at/all", "long": "x" * 300}[fault])


def mend(place: Path) -> None:
    place.unlink()
    (place.parents[1] / f"kept-{place.name}").rename(place)


@pytest.mark.parametrize("fault", FAULT)
def test_model_serves_on_and_one_line_says_why(models: Path, start: Any, fault: str) -> None:
    with (
        start(models, model_control_mode="poll", repository_poll_secs=0.05) as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        spoil(models / "other", fault)
        wait_until(lambda: metrics(running)[UNREADABLE] == 1)
        add_model(models, "model", adding(2), version=2)
        wait_until(lambda: ask(client) == 2)  # looks go on, and the others are followed
        time.sleep(0.3)
        assert ask(client, "other") == 10
        said = running.log.read_text()
        assert (
            said.count(f"{models / 'other'} cannot be read ({FAULT[fault]}")
            == said.count("cannot be read")
            == 1
        )
        assert "the model serves on as it is; mend its rights or its link" in said
        assert "Traceback" not in said
        assert metrics(running)["penstock_repository_lost_total"] == 0
        mend(models / "other")
        wait_until(lambda: metrics(running)[UNREADABLE] == 0)
        add_model(models, "other", adding(20), version=2)
        wait_until(lambda: ask(client, "other") == 20)
        said = running.log.read_text()
        assert said.count(f"{models / 'other'} can be read again") == said.count("can be read again") == 1


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="pathlib takes what it cannot look at for no folder")
def test_version_that_cannot_be_looked_at_brings_no_traceback(models: Path, start: Any) -> None:
    with (
        start(models, model_control_mode="poll", repository_poll_secs=0.05) as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        spoil(models / "other" / "1", "long")
        wait_until(lambda: metrics(running)[UNREADABLE] == 1)
        time.sleep(0.3)
        assert ask(client, "other") == 10
        said = running.log.read_text()
        assert said.count("cannot be read") == 1
        assert "Traceback" not in said


def test_what_is_no_model_is_passed_over_once(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    (models / "lost+found").symlink_to("lost+found")
    caplog.set_level("INFO", "penstock")
    contents = Contents(models, lambda name: False)
    for _ in range(3):
        found = contents.found()
    assert found.models == ["model", "other"]
    assert found.unreadable.keys() == {"lost+found"}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "it is passed over" in caplog.text
    (models / "lost+found").unlink()
    (models / "lost+found").symlink_to("gone")
    contents.look()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2, "the reason is another"
    (models / "lost+found").unlink()
    contents.look()
    assert len(caplog.records) == 2, "what is not there any more was not mended"
    assert contents.unreadable == 0


def test_all_models_gone_beside_what_cannot_be_read_are_kept(models: Path, start: Any) -> None:
    with (
        start(models, model_control_mode="poll", repository_poll_secs=0.05) as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        kept = models.with_name("kept")
        models.rename(kept)
        (models.parent / "new").mkdir()
        (models.parent / "new" / "lost+found").symlink_to("lost+found")  # an empty volume has one of its own
        (models.parent / "new").rename(models)
        wait_until(lambda: metrics(running)["penstock_repository_lost_total"] == 1)
        assert (ask(client), ask(client, "other")) == (1, 10)


def test_load_on_request_says_that_the_folder_cannot_be_read(models: Path, start: Any) -> None:
    with (
        start(models, model_control_mode="explicit", load_model="*") as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        spoil(models / "other", "loop")
        with pytest.raises(InferenceServerException, match=r"its folder cannot be read \(Too many levels"):
            client.load_model("other")
        assert ask(client, "other") == 10
