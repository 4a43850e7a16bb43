"""Explanations add up, name what is strange, and never the server's files."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import tritonclient.grpc as triton

from penstock.errors import (
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
    UnsupportedError,
)
from penstock.service import client
from penstock.service.client import PathClient
from penstock.service.explainer import Explainer
from penstock.service.repository import Repository
from penstock.service.server import Server
from penstock.service.settings import Settings
from penstock.service.v1 import paths_pb2, paths_pb2_grpc
from tests.service.test_lifecycle import wait_until

Images = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def explaining(tmp_path_factory: pytest.TempPathFactory, start: Any, add_model: Any) -> Iterator[Any]:
    """A server of models with a detector, and its repository."""
    folder = tmp_path_factory.mktemp("explaining") / "models"
    add_model(folder, "batched", detector=True)
    add_model(folder, "single", detector=True, single=True)
    add_model(folder, "spoilt", detector=True)
    add_model(folder, "old")
    with start(folder) as running:
        yield running, folder


@pytest.mark.parametrize("model", ["batched", "single"])
def test_parts_layers_and_filters_sum_to_the_served_score(
    explaining: Any, images: Images, model: str
) -> None:
    server, _ = explaining
    answer = client.infer(server.url, model, images)
    with PathClient(server.url) as paths:
        found = paths.explain(model, images, filters=6, classes=4)
    assert len(found) == len(images)
    for index, image in enumerate(found):
        assert image.score == pytest.approx(float(answer.anomaly_score[index, 0]), abs=1e-5)
        assert sum(image.parts.values()) == pytest.approx(image.score, abs=1e-4)
        layers = sum(layer.bits + layer.gates for layer in image.layers)
        assert layers + image.answer + image.baseline == pytest.approx(image.score, abs=1e-4)
        assert sum(each.contribution for each in image.filters) == pytest.approx(layers, abs=1e-6)
        contributions = [each.contribution for each in image.filters]
        assert contributions == sorted(contributions, reverse=True)
        opened = {(each.layer, each.filter): each.open for each in image.filters}
        assert [opened["conv1", 0], opened["conv2", 3]] == [
            bool(answer.path[index, 0]),
            bool(answer.path[index, 5]),
        ]
        assert list(image.nearest.values()) == sorted(image.nearest.values())
        assert image.class_name == ("ant", "bee", "cat", "dog")[answer.logits[index].argmax()]


def test_nearest_class_is_the_one_whose_usual_path_it_is(
    explaining: Any, images: Images, tables: Any
) -> None:
    server, _ = explaining
    path = client.infer(server.url, "batched", images[:1]).path[0]
    likelihood = tables["surprise"]
    odds = np.where(path == tables["usual"], 1 / (1 + np.exp(-likelihood)), 1 / (1 + np.exp(likelihood)))
    expected = -np.log(odds).mean(axis=1)
    with PathClient(server.url) as paths:
        nearest = paths.explain("batched", images[:1], classes=4)[0].nearest
    for place, name in enumerate(("ant", "bee", "cat", "dog")):
        assert nearest[name] == pytest.approx(expected[place], abs=1e-5)


def test_what_cannot_be_explained_is_refused(explaining: Any, images: Images) -> None:
    server, folder = explaining
    (folder / "spoilt" / "1" / "detector.npz").write_bytes(b"something else")
    with PathClient(server.url) as paths:
        with pytest.raises(UnsupportedError, match=r"no tables of its detector path-.*: export it again"):
            paths.explain("old", images)
        with pytest.raises(
            UnavailableError, match=r"detector\.npz was changed after it was loaded"
        ) as refusal:
            paths.explain("spoilt", images)
        assert str(folder) not in str(refusal.value)
        with pytest.raises(NotFoundError, match="nobody"):
            paths.explain("nobody", images)
        with pytest.raises(InvalidArgumentError, match=r"Expected \[N,3,8,8\]"):
            paths.explain("batched", images[:, :2])
        with pytest.raises(InvalidArgumentError, match="filters is 5000; expected 0 to 1000"):
            paths.explain("batched", images, filters=5000)
        images[2, 0, 0, 0] = np.nan
        with pytest.raises(InvalidArgumentError, match="image 2 holds NaN"):
            paths.explain("batched", images)


def test_damaged_tables_are_found_at_loading(tmp_path: Path, start: Any, add_model: Any) -> None:
    (add_model(tmp_path / "models", "damaged", detector=True) / "detector.npz").write_bytes(b"something else")
    with start(tmp_path / "models") as server:
        assert "detector.npz is damaged" in server.log.read_text()


def test_question_that_is_given_up_holds_its_place_but_no_images(
    tmp_path: Path, add_model: Any, images: Images
) -> None:
    add_model(tmp_path / "models", "slow", detector=True, work="slow")
    repository = Repository(Settings(model_repository=tmp_path / "models", threads=1))
    explainer = Explainer(repository.folder)
    model = repository.get("slow")
    long = images.copy()
    long[0, 0, 0, 0] = 5  # the others wait for it

    async def scenario() -> None:
        running = asyncio.create_task(explainer.explain(model, long))
        batches = [images.copy() for _ in range(15)]
        held = [weakref.ref(batch) for batch in batches]
        waiting = [asyncio.create_task(explainer.explain(model, batch)) for batch in batches]
        batches.clear()
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="16 requests for explanations are waiting"):
            await explainer.explain(model, images)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        del task
        waiting.clear()
        gc.collect()
        assert all(batch() is None for batch in held)
        with pytest.raises(OverloadedError):
            await explainer.explain(model, images)
        assert not running.done(), "the first question was to outlast the others"
        assert len((await running).scores) == len(images)
        assert len((await explainer.explain(model, images)).scores) == len(images)
        # By now the thread has come past them all, and every place is free.
        await asyncio.gather(*(explainer.explain(model, images[:1]) for _ in range(16)))

    asyncio.run(scenario())
    explainer.close()
    repository.close()


def test_stop_ends_an_explanation(tmp_path: Path, start: Any, add_model: Any, images: Images) -> None:
    add_model(tmp_path / "models", "slow", detector=True, work="slow")
    images[0, 0, 0, 0] = 1000  # some minutes
    request = paths_pb2.ExplainRequest(
        model_name="slow", datatype="FP32", shape=images.shape, images=images.tobytes()
    )
    with (
        start(tmp_path / "models", grace_seconds=0.2) as running,
        grpc.insecure_channel(running.url) as channel,
    ):
        endless = paths_pb2_grpc.PathServiceStub(channel).Explain.future(request)  # type: ignore[no-untyped-call]
        wait_until(lambda: "has a second session now" in running.log.read_text())
        assert running.stop() == 0
        with pytest.raises(grpc.RpcError):
            endless.result(timeout=60)


def sessions() -> int:
    """How many sessions of ONNX Runtime this process has."""
    gc.collect()
    return sum(type(each) is onnxruntime.InferenceSession for each in gc.get_objects())


def test_second_session_goes_with_its_model(tmp_path: Path, add_model: Any, images: Images) -> None:
    add_model(tmp_path / "models", "batched", detector=True)
    add_model(tmp_path / "models", "other", detector=True)
    settings = Settings(
        model_repository=tmp_path / "models",
        model_control_mode="explicit",
        load_model=("*",),
        grpc_port=0,
        metrics_port=0,
        threads=1,
    )

    def ask(url: str) -> None:
        with PathClient(url) as paths, triton.InferenceServerClient(url) as stock:
            before = sessions()
            for name in ("batched", "other"):
                paths.explain(name, images)
            assert sessions() == before + 2
            stock.unload_model("batched")
            wait_until(lambda: sessions() == before)  # both of its own are gone, the second of "other" stays
            stock.load_model("batched")
            paths.explain("batched", images)
            assert sessions() == before + 2

    async def scenario() -> None:
        server = Server(settings)
        await server.start()
        try:
            await asyncio.to_thread(ask, f"127.0.0.1:{server.grpc_port}")
        finally:
            await server.stop()

    asyncio.run(scenario())


def test_question_about_a_model_that_is_gone_leaves_no_session(
    tmp_path: Path, add_model: Any, images: Images
) -> None:
    """It was asked before, and its turn comes after."""
    add_model(tmp_path / "models", "batched", detector=True)
    repository = Repository(Settings(model_repository=tmp_path / "models", threads=1))
    explainer = Explainer(repository.folder)
    before = sessions()
    explainer.keep([])
    explained = asyncio.run(explainer.explain(repository.get("batched"), images))
    assert len(explained.scores) == len(images)
    assert sessions() == before
    explainer.close()
    repository.close()
