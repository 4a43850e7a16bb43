"""Triton's own example scripts, unchanged, against a real server.

They are not ours and do not stand in this repository. Fetch ``triton-inference-server/client`` and name its folder
``src/python/examples`` in the environment: docs/protocol.md says how. Without it, these tests skip and say so;
``test_example_clients.py`` does what the scripts do in any case. Some import Triton's HTTP client though they are
asked to speak gRPC, so they may get an interpreter of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from PIL import Image
from tritonclient.grpc import model_config_pb2

from tests.service.bundles import SHAPE, add_bundle
from tests.service.plain import SIMPLE_CONFIG, add_examples, add_model, graph, simple

VARIABLE = "PENSTOCK_TRITON_EXAMPLES"
PYTHON = os.environ.get("PENSTOCK_TRITON_PYTHON", sys.executable)
MISSING = f"{VARIABLE} names no folder with Triton's example scripts (docs/protocol.md says how to get them)"
SCRIPTS = (
    "grpc_client.py",
    "grpc_explicit_byte_content_client.py",
    "grpc_explicit_int8_content_client.py",
    "grpc_explicit_int_content_client.py",
    "simple_grpc_aio_infer_client.py",
    "simple_grpc_async_infer_client.py",
    "simple_grpc_custom_args_client.py",
    "simple_grpc_health_metadata.py",
    "simple_grpc_infer_client.py",
    "simple_grpc_keepalive_client.py",
    "simple_grpc_shm_client.py",
    "simple_grpc_shm_string_client.py",
    "simple_grpc_string_infer_client.py",
)
IMAGE_MODES = {
    "one": [],
    "batches": ["-b", "4", "-c", "2"],
    "async": ["-b", "2", "-a"],
    "streaming": ["-b", "2", "-a", "--streaming"],
}


SETTINGS = {
    "server_name": "triton",
    "model_control_mode": "explicit",
    "load_model": "*",
    "system_shared_memory": 1,
}


@pytest.fixture(scope="module")
def examples() -> Path:
    folder = Path(os.environ.get(VARIABLE, ""))
    if VARIABLE not in os.environ or not (folder / SCRIPTS[0]).is_file():
        pytest.skip(MISSING)
    return folder


@pytest.fixture(scope="module")
def served(examples: Path, tmp_path_factory: pytest.TempPathFactory, start: Any) -> Iterator[Any]:
    folder = add_examples(tmp_path_factory.mktemp("scripts") / "models")
    add_model(folder, "simple_int8", simple(TensorProto.INT8), SIMPLE_CONFIG % {"type": "TYPE_INT8"})
    config = add_bundle(folder, "pixels", input_type="uint8").parent / "config.pbtxt"
    shown = text_format.Parse(config.read_text(), model_config_pb2.ModelConfig())
    del shown.output[1:]  # image_client insists on one
    config.write_text(text_format.MessageToString(shown))
    add_densenet(folder)
    with start(folder, **SETTINGS) as running:
        yield running


def add_densenet(repository: Path) -> None:
    """Something of the names and shapes that a script expects of Triton's ``densenet_onnx``, without a batch."""
    kind, image = int(TensorProto.FLOAT), [3, 224, 224]
    mean = helper.make_node("ReduceMean", ["data_0"], ["fc6_1"], axes=[1, 2], keepdims=0)
    inputs: dict[str, tuple[int, list[int | str]]] = {"data_0": (kind, [*image])}
    add_model(repository, "densenet_onnx", graph([mean], inputs, {"fc6_1": (kind, [3])}))


def run(script: Path, *arguments: str) -> str:
    command = [PYTHON, str(script), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return ended.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_passes(script: str, examples: Path, served: Any) -> None:
    run(examples / script, "-u", served.url)


def test_script_that_speaks_both_protocols_passes(examples: Path, served: Any) -> None:
    run(examples / "reuse_infer_objects_client.py", "-i", "grpc", "-u", served.url)


def test_model_control_passes(examples: Path, tmp_path: Path, start: Any) -> None:
    """It wants a server of its own, with the eight models of Triton's example repository, and changes one."""
    for name in ("simple", *(f"other{number}" for number in range(7))):
        add_model(tmp_path / "models", name, simple(), SIMPLE_CONFIG % {"type": "TYPE_INT32"})
    with start(tmp_path / "models", **SETTINGS) as running:
        run(examples / "simple_grpc_model_control.py", "-u", running.url)


@pytest.mark.parametrize("mode", IMAGE_MODES)
@pytest.mark.parametrize("script", ["image_client.py", "grpc_image_client.py"])
def test_image_client_passes(script: str, mode: str, examples: Path, served: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(*SHAPE[1:], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    protocol = ["-i", "grpc"] if script == "image_client.py" else []
    options = [*protocol, "-u", served.url, "-m", "pixels", *IMAGE_MODES[mode]]
    assert "PASS" in run(examples / script, *options, str(tmp_path / "image.png"))
