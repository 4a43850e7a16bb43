"""The path service, its client, the metrics, and the command that asks about image files."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2

from penstock.errors import (
    InvalidArgumentError,
    NotFoundError,
    PenstockError,
    UnavailableError,
    UnsupportedError,
)
from penstock.service import client
from penstock.service.answers import Answer
from penstock.service.client import PathClient
from penstock.service.commands import infer
from penstock.service.images import read_images
from penstock.service.probe import main as probe

Images = npt.NDArray[np.float32]


@pytest.fixture
def fresh(repository: Path, start: Any) -> Iterator[Any]:
    """A server that nobody has asked yet and that remembers six images."""
    with start(repository, profile_window=6) as running:
        yield running


def test_profile_counts_the_prototypes_of_a_routed_model(
    add_model: Any, start: Any, images: Images, tmp_path: Path
) -> None:
    add_model(tmp_path / "models", "routed", lowering="routed")
    asked = [images, images[:3], images[:1]]
    with start(tmp_path / "models") as running, PathClient(running.url) as paths:
        path = np.concatenate([client.infer(running.url, "routed", each).path for each in asked])
        found = paths.path_profile("routed").prototype_counts
    for name, own in (("conv1", path[:, :2]), ("conv2", path[:, 2:])):
        _, counts = np.unique(own, axis=0, return_counts=True)
        assert found[name] == tuple(sorted(counts.tolist(), reverse=True))
    assert max(map(len, found.values())) > 1


def test_profile_covers_the_most_recent_images(fresh: Any, images: Images) -> None:
    with PathClient(fresh.url) as paths:
        before = paths.path_profile("batched")
        assert (before.window, before.active_macs, before.classes) == (0, 0.0, ())
        assert before.layer_density == {"conv1": 0.0, "conv2": 0.0}

        first = client.infer(fresh.url, "batched", images)
        assert paths.path_profile("batched").window == 5
        second = client.infer(fresh.url, "batched", images[2:])
        profile = paths.path_profile("batched", "2")
        assert paths.path_profile("batched", "1").window == 0

    recent = [np.concatenate(pair)[-6:] for pair in zip(*map(_arrays, (first, second)), strict=True)]
    logits, path, macs, flags = recent
    assert profile.window == 6
    assert profile.active_macs == pytest.approx(macs.mean())
    assert profile.flag_rate == pytest.approx(flags.mean())
    assert profile.layer_density == pytest.approx({"conv1": path[:, :2].mean(), "conv2": path[:, 2:].mean()})
    predicted = logits.argmax(axis=1)
    assert {entry.name: entry.count for entry in profile.classes} == {
        ("ant", "bee", "cat", "dog")[index]: int((predicted == index).sum()) for index in set(predicted)
    }
    flagged = sum(entry.flag_rate * entry.count for entry in profile.classes)
    assert flagged == pytest.approx(flags.sum())


def _arrays(answer: Answer) -> tuple[npt.NDArray[Any], ...]:
    return answer.logits, answer.path, answer.active_macs, answer.adversarial


def test_metrics(fresh: Any, images: Images) -> None:
    client.infer(fresh.url, "batched", images)
    client.infer(fresh.url, "single", images)
    for _ in range(2):
        with pytest.raises(InvalidArgumentError):
            client.infer(fresh.url, "single", np.zeros((1, 3, 4, 4), dtype=np.float32))
    with pytest.raises(NotFoundError):
        client.infer(fresh.url, "nobody", images)
    with urllib.request.urlopen(f"http://{fresh.metrics}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    for line in (
        'nv_inference_request_success{model="batched",version="2"} 1.0',
        'nv_inference_request_success{model="batched",version="1"} 0.0',
        'nv_inference_count{model="batched",version="2"} 5.0',
        'nv_inference_exec_count{model="batched",version="2"} 1.0',
        'nv_inference_exec_count{model="single",version="1"} 5.0',
        'nv_inference_request_failure{model="single",reason="OTHER",version="1"} 2.0',
        'nv_inference_pending_request_count{model="single",version="1"} 0.0',
        'penstock_flagged_total{model="single",version="1"} 1.0',
        'penstock_active_macs_count{model="single",version="1"} 5.0',
        'penstock_rpc_total{code="OK",method="ModelInfer"} 2.0',
        'penstock_rpc_total{code="INVALID_ARGUMENT",method="ModelInfer"} 2.0',
        'penstock_rpc_total{code="NOT_FOUND",method="ModelInfer"} 1.0',
    ):
        assert line in lines
    assert not any("nobody" in line for line in lines), "a client's text must not make a series"
    duration = 'nv_inference_request_duration_us{model="batched",version="2"} '
    assert [float(line.removeprefix(duration)) > 0 for line in lines if line.startswith(duration)] == [True]
    values = {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }
    phases = [
        values[f'nv_inference_{phase}_duration_us{{model="batched",version="2"}}']
        for phase in ("queue", "compute_input", "compute_infer", "compute_output")
    ]
    assert min(phases) > 0
    assert sum(phases) < values[duration.strip()], "they are parts of it"


def test_client_raises_what_the_server_raised(server: Any, images: Images) -> None:
    with PathClient(server.url) as paths, pytest.raises(NotFoundError, match="nobody"):
        paths.path_profile("nobody")
    with PathClient(server.url) as paths, pytest.raises(InvalidArgumentError, match="abc"):
        paths.path_profile("batched", "abc")
    with pytest.raises(InvalidArgumentError, match="N from 1 to 8"):
        client.infer(server.url, "batched", np.repeat(images, 2, axis=0))
    with pytest.raises(PenstockError, match="internal error, request id"):
        client.infer(server.url, "brittle", np.ones((1, 3, 8, 8), dtype=np.float32))


def test_client_without_a_server() -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
        client.model_info("127.0.0.1:1", "batched", timeout=5)


def test_model_that_takes_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = service_pb2.ModelConfigResponse()
    reply.config.input.add(name="tokens", data_type="TYPE_INT64", dims=[-1])

    @contextmanager
    def other_server(url: str, credentials: Any) -> Iterator[Any]:
        yield SimpleNamespace(get_model_config=lambda model, **_: reply)

    monkeypatch.setattr(client, "_connected", other_server)
    with pytest.raises(UnsupportedError, match=r"model 'bert' takes tokens int64 \[-1\]; expected images"):
        client.model_info("127.0.0.1:1", "bert")


def test_probe(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe([server.url]) == 0
    assert probe([server.url, "batched"]) == 0
    assert probe([server.url, "nobody"]) == 1
    assert probe(["127.0.0.1:1"]) == 1
    assert probe([]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Ten files of every kind: grey, RGB, RGBA, palette; PNG and JPEG; of various sizes."""
    rng = np.random.default_rng(0)
    found = []
    for number, mode in enumerate(("L", "RGB", "RGBA", "P", "1") * 2):
        pixels = rng.integers(0, 256, size=(12 + number, 20, 3), dtype=np.uint8)
        file = tmp_path / f"[{number}].{'jpg' if mode in ('L', 'RGB') else 'png'}"
        Image.fromarray(pixels).convert(mode).save(file)
        found.append(file)
    return found


@pytest.mark.parametrize("model", ["batched", "single", "pixels"])
def test_infer_command_prints_a_row_per_file(
    server: Any, files: list[Path], capsys: pytest.CaptureFixture[str], model: str
) -> None:
    assert infer(server.url, model, files) == 0  # ten files are more than one batch
    printed = capsys.readouterr().out.splitlines()
    rows = [next(line for line in printed if str(file) in line) for file in files]
    assert len(set(rows)) == len(files), "a row is to stay on one line, however long the file's name"
    assert all(any(name in row for name in ("ant", "bee", "cat", "dog")) for row in rows)
    assert any("suspicious" in row for row in rows)


def test_images_are_converted_and_scaled(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), (255, 0, 51)).save(tmp_path / "colour.png")
    colour = read_images([tmp_path / "colour.png"], (3, 8, 6))
    assert colour.shape == (1, 3, 8, 6)
    assert colour.dtype == np.uint8
    assert colour[0, :, 3, 3].tolist() == [255, 0, 51]
    assert read_images([tmp_path / "colour.png"], (1, 8, 6)).shape == (1, 1, 8, 6)


def test_image_mistakes_are_named(server: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InvalidArgumentError, match=r"text\.png' cannot be read as an image"):
        infer(server.url, "batched", [tmp_path / "text.png"])
    (tmp_path / "broken.ppm").write_bytes(b"P5 2~ 9 255 no number")  # of which Pillow makes a ValueError
    with pytest.raises(InvalidArgumentError, match=r"broken\.ppm' cannot be read as an image"):
        infer(server.url, "batched", [tmp_path / "broken.ppm"])
    Image.new("I;16", (9, 9), 300).save(tmp_path / "deep.png")
    with pytest.raises(InvalidArgumentError, match=r"deep\.png' has more than 8 bits a channel \(mode I"):
        infer(server.url, "batched", [tmp_path / "deep.png"])
    with pytest.raises(NotFoundError, match=r"missing\.png"):
        infer(server.url, "batched", [tmp_path / "missing.png"])
    with pytest.raises(InvalidArgumentError, match="pass at least one file"):
        infer(server.url, "batched", [])
    with pytest.raises(InvalidArgumentError, match="5 channels"):
        read_images([tmp_path / "text.png"], (5, 8, 8))
