"""Bundles that are damaged, half-written or wrong are refused with a reason; the others serve."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.bundle import CONFIG_FILE, MANIFEST_FILE, MODEL_FILE, Bundle, read_bundle
from penstock.files import sha256
from penstock.service.repository import Repository
from penstock.service.settings import Settings

Images = npt.NDArray[np.float32]
Request = Callable[..., service_pb2.ModelInferRequest]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def replace_model(version: Path, data: bytes) -> None:
    """Another file with the right hash, so that only the session can tell."""
    old = sha256(version / MODEL_FILE)
    (version / MODEL_FILE).write_bytes(data)
    edit(version / MANIFEST_FILE, old, sha256(version / MODEL_FILE))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def add_class(home: Path) -> None:
    edit(home / "1" / MANIFEST_FILE, '"dog"', '"dog", "elk"')
    edit(home / CONFIG_FILE, "dims: [1, 4]", "dims: [1, 5]")


INPUT_LINES = 'input [\n  { name: "images" data_type: TYPE_FP32 dims: [1, 3, 8, 8] }\n]\n'

DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "half-a-graph": (lambda home: truncate(home / "1" / MODEL_FILE), "is damaged: its sha256"),
    "no-graph": (lambda home: replace_model(home / "1", b"nothing"), "is refused by ONNX Runtime"),
    "missing-graph": (lambda home: (home / "1" / MODEL_FILE).unlink(), "has no model.onnx"),
    "missing-manifest": (lambda home: (home / "1" / MANIFEST_FILE).unlink(), "has no bundle.json"),
    "half-a-manifest": (lambda home: truncate(home / "1" / MANIFEST_FILE), "bundle.json cannot be read"),
    "other-classes": (
        lambda home: edit(home / "1" / MANIFEST_FILE, '"dog"', '"dog", "elk"'),
        "has dims [1, 4] for 'logits'; the bundle has [1, 5]",
    ),
    "graph-of-other-classes": (
        add_class,
        "has output 'logits' of tensor(float) [1, 4]; expected tensor(float) [N, 5]",
    ),
    "missing-config": (lambda home: (home / CONFIG_FILE).unlink(), "config.pbtxt cannot be read"),
    "broken-config": (lambda home: (home / CONFIG_FILE).write_text("name: {"), "config.pbtxt cannot be read"),
    "config-of-another": (
        lambda home: edit(home / CONFIG_FILE, home.name, "somebody"),
        "names the model 'somebody'; its folder is 'config-of-another'",
    ),
    "config-of-other-shape": (
        lambda home: edit(home / CONFIG_FILE, "dims: [1, 3, 8, 8]", "dims: [1, 3, 9, 9]"),
        "has dims [1, 3, 9, 9] for 'images'; the bundle has [1, 3, 8, 8]",
    ),
    "config-of-other-output": (
        lambda home: edit(home / CONFIG_FILE, '"active_macs"', '"cost"'),
        "has dims [1, 1] for 'cost'; the bundle has no such tensor",
    ),
    "config-of-a-batch": (
        lambda home: edit(home / CONFIG_FILE, "max_batch_size: 0", "max_batch_size: 4"),
        "has max_batch_size 4; expected 0",
    ),
    "config-without-input": (
        lambda home: edit(home / CONFIG_FILE, INPUT_LINES, ""),
        "has inputs []; expected ['images']",
    ),
    "config-of-too-large-a-spread": (
        lambda home: edit(home / CONFIG_FILE, 'string_value: "8"', 'string_value: "9"'),
        "has penstock_max_batch '9'; expected 1 to 8",
    ),
    "config-of-no-spread": (
        lambda home: edit(home / CONFIG_FILE, 'string_value: "8"', 'string_value: "many"'),
        "has penstock_max_batch 'many'; expected 1 to 8",
    ),
    "ill-typed-manifest": (
        lambda home: edit(home / "1" / MANIFEST_FILE, '"max_batch": 8', '"max_batch": "8"'),
        "max_batch is '8'; expected int",
    ),
    "no-versions": (lambda home: shutil.rmtree(home / "1"), "it has no version folders"),
}


def copy_model(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    edit(target / CONFIG_FILE, f'"{source.name}"', f'"{target.name}"')
    return target


@pytest.fixture(scope="module")
def damaged(repository: Path, start: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server over one whole model, one whose latest version is damaged, and one model per damage."""
    folder = tmp_path_factory.mktemp("damaged")
    whole = copy_model(repository / "batched", folder / "whole")
    # What a killed export leaves behind, and a folder that is no version by Triton's rules.
    shutil.copytree(whole / "1", whole / ".3.x7f3k2")
    shutil.copytree(whole / "1", whole / "03")
    truncate(copy_model(repository / "batched", folder / "latest-damaged") / "2" / MODEL_FILE)
    lowered = copy_model(repository / "batched", folder / "lowered")
    edit(lowered / CONFIG_FILE, "max_batch_size: 8", "max_batch_size: 4")
    narrowed = copy_model(repository / "single", folder / "narrowed")
    edit(narrowed / CONFIG_FILE, 'string_value: "8"', 'string_value: "4"')
    for name, (spoil, _) in DAMAGES.items():
        spoil(copy_model(repository / "single", folder / name))
    with start(folder) as running:
        yield running


@pytest.fixture
def damaged_stub(damaged: Any) -> Iterator[Any]:
    with grpc.insecure_channel(damaged.url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_bundle_is_not_ready_and_the_log_says_why(
    damaged: Any, damaged_stub: Any, request_for: Request, images: Images, name: str
) -> None:
    line = next(line for line in damaged.log.read_text().splitlines() if f" {name} " in line)
    assert " ERROR " in line
    assert DAMAGES[name][1] in line
    assert not damaged_stub.ModelReady(service_pb2.ModelReadyRequest(name=name), timeout=30).ready
    with pytest.raises(grpc.RpcError, match=f"Model '{name}' is not at ready state") as refused:
        damaged_stub.ModelInfer(request_for(name, images[:1]), timeout=30)
    assert refused.value.code() is StatusCode.UNAVAILABLE


def test_health_is_told_per_model(damaged: Any) -> None:
    with grpc.insecure_channel(damaged.url) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def health(name: str) -> int:
            return int(stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30).status)

        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        for name in ("", "inference.GRPCInferenceService", "penstock.service.v1.PathService", "whole"):
            assert health(name) == serving
        assert health("latest-damaged") == serving
        assert health("half-a-graph") == not_serving
        with pytest.raises(grpc.RpcError) as unknown:
            health("nobody")
        assert unknown.value.code() is StatusCode.NOT_FOUND


def test_others_serve(damaged_stub: Any, request_for: Request, images: Images) -> None:
    assert damaged_stub.ModelInfer(request_for("whole", images), timeout=30).model_version == "2"
    assert damaged_stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=30).ready
    metadata = damaged_stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="whole"), timeout=30)
    assert list(metadata.versions) == ["1", "2"]


@pytest.mark.parametrize("name", ["lowered", "narrowed"])
def test_configuration_may_lower_the_batch(
    damaged_stub: Any, request_for: Request, images: Images, name: str
) -> None:
    config = damaged_stub.ModelConfig(service_pb2.ModelConfigRequest(name=name), timeout=30).config
    assert config.max_batch_size == 4
    assert damaged_stub.ModelInfer(request_for(name, images[:4]), timeout=30).id == "42"
    with pytest.raises(grpc.RpcError, match="N from 1 to 4"):
        damaged_stub.ModelInfer(request_for(name, images), timeout=30)


def test_latest_whole_version_answers(damaged_stub: Any, request_for: Request, images: Images) -> None:
    request = request_for("latest-damaged", images)
    assert damaged_stub.ModelInfer(request, timeout=30).model_version == "1"
    request.model_version = "2"
    with pytest.raises(grpc.RpcError) as refused:
        damaged_stub.ModelInfer(request, timeout=30)
    assert refused.value.code() is StatusCode.UNAVAILABLE
    assert refused.value.details() == "Model 'latest-damaged' version 2 is not at ready state"


def test_damage_that_nobody_foresaw(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_model(repository / "batched", tmp_path / "strange")
    copy_model(repository / "batched", tmp_path / "whole")

    def read(folder: Path) -> Bundle:
        if folder == tmp_path / "strange" / "2":
            raise ZeroDivisionError
        return read_bundle(folder)

    monkeypatch.setattr("penstock.service.loading.read_bundle", read)
    loaded = Repository(Settings(model_repository=tmp_path))
    assert {name: loaded.ready_versions(name) for name in loaded.names} == {"strange": [1], "whole": [1, 2]}
    assert "model strange version 2 is not served" in caplog.text
    loaded.close()


def test_folder_that_cannot_be_read_is_passed_over(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the ``lost+found`` of a volume; root may read everything but what leads nowhere."""
    copy_model(repository / "single", tmp_path / "whole")
    (tmp_path / "lost+found").symlink_to("lost+found")
    loaded = Repository(Settings(model_repository=tmp_path))
    assert loaded.names == ["whole"]
    assert "lost+found cannot be read (Too many levels of symbolic links): it is passed over" in caplog.text
    loaded.close()


def test_log_holds_no_traceback(damaged: Any) -> None:
    assert "Traceback" not in damaged.log.read_text()
