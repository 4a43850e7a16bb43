"""Models that come, change and go while the server runs."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import tempfile
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from penstock.service.client import PathClient, infer
from penstock.service.control import ModelControl
from penstock.service.repository import Repository
from penstock.service.server import Server
from penstock.service.settings import Settings
from tests.service.bundles import add_bundle
from tests.service.plain import FLOAT, add_model, graph
from tests.service.scale import Record, long, scaled
from tests.service.test_stress import resident_mib

Images = npt.NDArray[np.float32]
Client = Any  # tritonclient is not typed

RELOADS = scaled(500, 20)
LATEST = "version_policy { latest { num_versions: 1 } }"


def adding(number: float) -> onnx.ModelProto:
    """``y = x + number``, so that an answer tells which version gave it."""
    constant = numpy_helper.from_array(np.full(1, number, dtype=np.float32), "number")
    node = helper.make_node("Add", ["x", "number"], ["y"])
    return graph([node], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])}, [constant])


def ask(client: Client, name: str = "model", version: str = "") -> float:
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.zeros(1, dtype=np.float32))
    return float(client.infer(name, [tensor], model_version=version).as_numpy("y")[0])


def index(client: Client) -> list[tuple[str, str, str]]:
    lines = client.get_model_repository_index(as_json=True).get("models", [])
    return [(line["name"], line.get("version", ""), line.get("state", "")) for line in lines]


def shown(metrics: str) -> set[tuple[str, str]]:
    """Models and versions of which a metrics page has any figure."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=30) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    labels = [sample.labels for family in families for sample in family.samples]
    return {(each["model"], each["version"]) for each in labels if "model" in each}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for 30 seconds"
        time.sleep(0.02)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    add_model(folder, "model", adding(1), LATEST)
    add_model(folder, "other", adding(10))
    return folder


def test_models_are_loaded_and_unloaded_on_request(models: Path, start: Any) -> None:
    with (
        start(models, model_control_mode="explicit", load_model="other") as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        assert index(client) == [("model", "", ""), ("other", "1", "READY")]
        with pytest.raises(InferenceServerException, match="unknown model: 'model'"):
            ask(client)
        client.load_model("model")
        assert ask(client) == 1
        assert client.is_model_ready("model")
        probe = health_pb2.HealthCheckRequest(service="model")
        assert health_pb2_grpc.HealthStub(client._channel).Check(probe).status == 1
        client.unload_model("model")
        assert not client.is_model_ready("model")
        assert index(client)[0] == ("model", "1", "UNAVAILABLE")
        with pytest.raises(InferenceServerException, match="not at ready state"):
            ask(client)
        client.unload_model("nobody")
        client.unload_model("other")
        assert client.is_server_ready(), "nothing was meant to be served"
        with pytest.raises(InferenceServerException, match="failed to poll from model repository"):
            client.load_model("nobody")
        with pytest.raises(InferenceServerException, match="failed to poll from model repository"):
            client.load_model("../models/model")
        client.load_model("other")
        assert ask(client, "other") == 10


def test_new_version_takes_over_and_a_bad_one_does_not(models: Path, start: Any) -> None:
    with (
        start(models, model_control_mode="explicit", load_model="*") as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        assert ask(client) == 1
        add_model(models, "model", adding(2), version=2)
        assert ask(client) == 1, "nobody asked for it yet"
        client.load_model("model")
        assert (ask(client), client.is_model_ready("model", "1")) == (2, False)
        (models / "model" / "3").mkdir()
        (models / "model" / "3" / "model.onnx").write_bytes(b"no graph")
        with pytest.raises(InferenceServerException, match=r"version 3: .* is refused") as refused:
            client.load_model("model")
        assert str(models) not in str(refused.value)
        assert ask(client) == 2
        assert ("model", "3", "UNAVAILABLE") in index(client)
        shutil.rmtree(models / "model" / "3")
        client.load_model("model")
        assert index(client)[0] == ("model", "2", "READY")
        # The same configuration without the policy, and a model whose files come with the request.
        client.load_model("model", config=json.dumps({"version_policy": {"all": {}}}))
        assert (ask(client, version="1"), ask(client)) == (1, 2)
        client.load_model("fresh", config="{}", files={"file:7/model.onnx": adding(7).SerializeToString()})
        assert ask(client, "fresh", "7") == 7
        for name in ("../7/model.onnx", "/tmp/model.onnx", "7/\0"):
            with pytest.raises(InferenceServerException, match="expected a path such as"):
                client.load_model("fresh", config="{}", files={f"file:{name}": b""})
        with pytest.raises(InferenceServerException, match="failed to load 'model': parameter 'config'"):
            client.load_model("model", config="{]")
        with pytest.raises(InferenceServerException, match="failed to poll from model repository") as long:
            client.load_model("model", config="{}", files={"file:" + "A" * 256: b"a"})
        assert long.value.status() == "StatusCode.INTERNAL"
        assert ask(client) == 2


def with_weights_at(place: str) -> bytes:
    """A model that says that its weights are in another file."""
    weights = onnx.TensorProto(name="number", data_type=FLOAT, dims=[1], data_location="EXTERNAL")
    for key, value in {"location": place, "offset": "0", "length": "4"}.items():
        weights.external_data.add(key=key, value=value)
    model = adding(1)
    model.graph.initializer[0].CopyFrom(weights)
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"junk", "fresh/1/model.onnx is refused by ONNX Runtime: Load model from fresh/1/model.onnx failed"),
        (with_weights_at("weights.bin"), "External data path does not exist"),
        (with_weights_at("../../secret"), "External data path escapes model directory"),
    ],
    ids=["junk", "weights that did not come along", "weights elsewhere"],
)
def test_model_that_came_with_the_request_is_refused_without_a_path(
    models: Path, start: Any, content: bytes, reason: str
) -> None:
    with (
        start(models, model_control_mode="explicit") as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        with pytest.raises(InferenceServerException) as refused:
            client.load_model("fresh", config="{}", files={"file:1/model.onnx": content})
        said = [refused.value.message(), str(client.get_model_repository_index())]
    for text in said:
        assert reason in text
        assert tempfile.gettempdir() not in text
        assert "ONNXRuntimeError" not in text


def test_linked_version_is_refused_without_the_place_of_the_link(models: Path, tmp_path: Path) -> None:
    """ONNX Runtime follows links before it says where it looked."""
    store = tmp_path / "store of models" / "1"
    store.mkdir(parents=True)
    (store / "model.onnx").write_bytes(with_weights_at("weights.bin"))
    (models / "linked").symlink_to(store.parent)
    repository = Repository(Settings(model_repository=models))
    (line,) = (line for line in asyncio.run(repository.index()) if line.name == "linked")
    repository.close()
    assert line.reason.endswith('External data path does not exist: "linked/1/weights.bin"')


async def nothing() -> None:
    pass


def feed(pipe: Path, text: str) -> None:
    """Give a text to whoever reads from a pipe, as soon as somebody does."""
    opened: list[int] = []

    def is_open() -> bool:
        with suppress(OSError):  # nobody reads yet
            opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(opened)

    wait_until(is_open)
    os.write(opened[0], text.encode())
    os.close(opened[0])


def test_load_is_finished_though_its_caller_has_gone(models: Path) -> None:
    """It takes long because the model's configuration comes through a pipe, once for each load."""
    pipe = models / "model" / "config.pbtxt"
    pipe.unlink()
    os.mkfifo(pipe)
    settings = Settings(model_repository=models, model_control_mode="explicit")
    repository = Repository(settings)
    control = ModelControl(repository, settings, nothing)

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(control.load("model"), 1)
        again = asyncio.create_task(control.load("model"))
        given_up = asyncio.create_task(control.load("other"))
        await asyncio.sleep(0.5)
        given_up.cancel()
        await asyncio.to_thread(feed, pipe, LATEST)
        await asyncio.to_thread(wait_until, lambda: repository.ready_versions("model") == [1])
        assert not again.done(), "it was to wait for the first load"
        loaded = repository.get("model")
        await asyncio.to_thread(feed, pipe, LATEST)
        await again
        assert repository.get("model") is loaded, "nothing was new"
        assert given_up.cancelled()
        assert repository.ready_versions("other") == [], "it was given up before its turn"

    async def without_readers_left() -> None:
        try:
            await scenario()
        finally:
            os.close(os.open(pipe, os.O_RDWR))

    asyncio.run(without_readers_left())
    repository.close()


def test_files_of_a_request_are_loaded_though_it_was_given_up(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(model_repository=models, model_control_mode="explicit")
    repository = Repository(settings)
    control = ModelControl(repository, settings, nothing)

    async def begin_and_give_up(files: dict[str, bytes]) -> None:
        load = asyncio.create_task(control.load("fresh", config="{}", files=files))
        await asyncio.sleep(0)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load

    async def scenario() -> None:
        await begin_and_give_up({"7/model.onnx": adding(7).SerializeToString()})
        await asyncio.to_thread(wait_until, lambda: repository.ready_versions("fresh") == [7])
        await begin_and_give_up({"8/model.onnx": b"junk"})
        await asyncio.to_thread(wait_until, lambda: "failed to load 'fresh', version 8" in caplog.text)

    asyncio.run(scenario())
    assert repository.ready_versions("fresh") == [7], "what served before serves on"
    repository.close()


def test_repository_that_is_gone_does_not_take_its_models_along(models: Path, start: Any) -> None:
    with (
        start(models, model_control_mode="explicit", load_model="*") as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        models.rename(models.with_name("elsewhere"))
        assert ask(client) == 1
        assert index(client) == [("model", "1", "READY"), ("other", "1", "READY")]
        with pytest.raises(
            InferenceServerException, match=r"repository cannot be read \(No such file"
        ) as refused:
            client.load_model("model")
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        assert str(models) not in refused.value.message()
        models.with_name("elsewhere").rename(models)
        client.load_model("model")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing is freed that refers to itself in a circle."""
    gc.disable()
    yield
    gc.enable()


def test_unloaded_model_leaves_neither_memory_nor_figures(
    models: Path, images: Images, no_collector: None
) -> None:
    add_bundle(models, "bundle", detector=True)

    def ask(address: str) -> None:
        infer(address, "bundle", images)
        with PathClient(address) as paths:
            paths.explain("bundle", images)
            paths.path_profile("bundle")

    async def scenario() -> None:
        server = Server(
            Settings(
                model_repository=models,
                model_control_mode="explicit",
                load_model=("*",),
                grpc_port=0,
                metrics_port=0,
                threads=1,
            )
        )
        await server.start()
        address, metrics = (f"127.0.0.1:{port}" for port in (server.grpc_port, server.metrics_port))
        try:
            sessions = [weakref.ref(server.repository.get(name).session) for name in ("bundle", "model")]
            await asyncio.to_thread(ask, address)
            assert shown(metrics) == {("bundle", "1"), ("model", "1"), ("other", "1")}
            async with aio.InferenceServerClient(address) as client:
                await client.unload_model("bundle")
                await client.unload_model("model")
                await asyncio.sleep(0)  # they are closed in tasks of their own
                assert [session() for session in sessions] == [None, None]
                assert shown(metrics) == {("other", "1")}
        finally:
            await server.stop()

    asyncio.run(scenario())


@long
def test_no_request_fails_while_versions_change(models: Path, start: Any, record_property: Record) -> None:
    failures: list[Exception] = []
    answers: list[float] = []
    done = threading.Event()

    def keep_asking(url: str) -> None:
        with triton.InferenceServerClient(url) as client:
            while not done.is_set():
                try:
                    answers.append(ask(client))
                except Exception as error:
                    failures.append(error)

    with (
        start(models, model_control_mode="explicit", load_model="*") as running,
        triton.InferenceServerClient(running.url) as client,
    ):
        before = resident_mib(running)
        threads = [threading.Thread(target=keep_asking, args=(running.url,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for number in range(2, 2 + RELOADS):
                add_model(models, "model", adding(number), version=number)
                client.load_model("model")
                assert ask(client) == number
                shutil.rmtree(models / "model" / str(number - 1))  # nobody is served by it any more
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert shown(running.metrics) == {("model", str(1 + RELOADS)), ("other", "1")}
        grown = resident_mib(running) - before
        record_property("reloads", RELOADS)
        record_property("requests", f"{len(answers) + len(failures):,}")
        record_property("failed", len(failures))
        record_property("memory grown by, MiB", f"{grown:.0f}")
        assert grown < 64
    assert not failures
    assert len(set(answers)) > 1
