"""What happens to the machine and to the files under a server's feet, while it is asked."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from penstock.bundle import MODEL_FILE
from penstock.service import client
from penstock.service.client import PathClient
from tests.service.bundles import SHAPE, add_bundle
from tests.service.test_control import adding, ask
from tests.service.test_lifecycle import sample, wait_until

Images = npt.NDArray[np.float32]
EXPECTED = [False] * 4 + [True]


def flags(url: str, images: Images) -> list[bool]:
    found: list[bool] = client.infer(url, "model", images).adversarial[:, 0].tolist()
    return found


@contextmanager
def asked_all_the_time(url: str, images: Images) -> Iterator[Callable[[], int]]:
    """Ask from two threads; yields the number of right answers so far, and fails where one was not."""
    wrong: list[Any] = []
    right: list[None] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            try:
                found = flags(url, images)
            except Exception as error:
                wrong.append(error)
            else:
                (right if found == EXPECTED else wrong).append(None)

    threads = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: len(right)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert right


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    add_bundle(folder, "model", detector=False)
    return folder


def test_files_may_go_while_they_are_served(models: Path, start: Any, images: Images) -> None:
    with start(models, model_control_mode="explicit", load_model="*", threads=1) as running:
        with asked_all_the_time(running.url, images) as right:
            wait_until(lambda: right() > 0)
            (models / "model" / "1" / MODEL_FILE).unlink()
            with (
                triton.InferenceServerClient(running.url) as stock,
                pytest.raises(InferenceServerException, match="failed to load 'model'"),
            ):
                stock.load_model("model")
            shutil.rmtree(models)
            before = right()
            wait_until(lambda: right() > before + 3)
        with PathClient(running.url) as paths:
            assert paths.path_profile("model").window > 0
        assert running.stop() == 0


@pytest.mark.parametrize("damage", ["model.onnx", "bundle.json"])
def test_corrupt_new_version_leaves_the_old_one_serving(
    models: Path, start: Any, images: Images, damage: str
) -> None:
    with (
        start(models, model_control_mode="explicit", load_model="*", threads=1) as running,
        triton.InferenceServerClient(running.url) as stock,
        asked_all_the_time(running.url, images),
    ):
        folder = add_bundle(models, "model")
        whole = (folder / damage).read_bytes()
        (folder / damage).write_bytes(whole[: len(whole) // 2] + b"\0" + whole[len(whole) // 2 + 1 :])
        with pytest.raises(InferenceServerException, match="failed to load 'model'"):
            stock.load_model("model")
        assert not stock.is_model_ready("model", "2")
        (folder / damage).write_bytes(whole)
        stock.load_model("model")
        assert stock.is_model_ready("model", "2")


def test_full_disk(models: Path, tmp_path: Path, start: Any, images: Images) -> None:
    """No file of the server's can grow: no log line, no record, no model that comes with a request."""
    settings = {"sink_folder": tmp_path / "flagged", "model_control_mode": "explicit", "load_model": "*"}
    with (
        start(models, threads=1, log_level="debug", **settings) as running,
        triton.InferenceServerClient(running.url) as stock,
    ):
        limits = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        for _ in range(5):
            assert flags(running.url, images) == EXPECTED
        wait_until(lambda: sample(running, "penstock_sink_lost_total") >= 5)
        files = {"file:1/model.onnx": adding(7).SerializeToString()}
        with pytest.raises(InferenceServerException, match="its files cannot be written") as refused:
            stock.load_model("fresh", config="{}", files=files)
        assert refused.value.status() == "StatusCode.INTERNAL"
        assert "/" not in str(refused.value)
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, limits)
        stock.load_model("fresh", config="{}", files=files)
        assert ask(stock, "fresh") == 7
        assert flags(running.url, images) == EXPECTED
        wait_until(lambda: sample(running, "penstock_sink_written_total") >= 1)
        assert running.stop() == 0


def test_killed_and_started_again(models: Path, tmp_path: Path, start: Any, images: Images) -> None:
    """On the same port, for the same client; whole records stay whole."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"sink_folder": tmp_path / "flagged", "sink_image_share": 1, "grpc_port": port, "threads": 1}
    tensor = triton.InferInput("images", [5, *SHAPE], "FP32")
    tensor.set_data_from_numpy(images)
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as stock:
        for life in (1, 2, 3):
            with start(models, **settings) as running:
                wait_until(lambda: _ready(stock))
                found = stock.infer("model", [tensor]).as_numpy("adversarial")[:, 0]
                assert found.tolist() == EXPECTED
                wait_until(partial(_has_written, running))
                assert running.stop(signal.SIGKILL) == -signal.SIGKILL
            assert len(_records(tmp_path / "flagged")) == life
            with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
                stock.infer("model", [tensor])


def _has_written(running: Any) -> bool:
    return sample(running, "penstock_sink_written_total") >= 1


def _ready(stock: Any) -> bool:
    try:
        return bool(stock.is_server_ready())
    except InferenceServerException:
        return False


def _records(folder: Path) -> list[Any]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
