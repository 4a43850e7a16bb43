"""Bodies of real requests, mutated: no crash, no hang, no path of the server in an answer, and the right statuses.

Every call of both services is fed, with valid bodies that were flipped, cut, doubled, spliced and stuffed at random.
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from tritonclient.grpc import service_pb2

from penstock.service.path_servicer import PATHS
from penstock.service.servicer import INFERENCE
from penstock.service.v1 import paths_pb2
from tests.service.bundles import add_bundle
from tests.service.plain import FLOAT, add_examples, identity
from tests.service.scale import Record, long, scaled
from tests.service.test_stress import metrics, told

Images = npt.NDArray[np.float32]
Bodies = dict[str, list[bytes]]

BODIES = scaled(50_000, 2_000)
AT_ONCE = 32
TIMEOUT = 30
REFUSALS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "ALREADY_EXISTS", "UNIMPLEMENTED"}
REFUSALS |= {"FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
# Triton says INTERNAL to bytes that are no message, to loads that fail and to objects that cannot be opened.
INTERNAL = re.compile("Unable to parse request|[Ff]ailed to load|failed to poll|unable to open shared memory")
LEAK = re.compile(
    r"Traceback|site-packages|File \"|/dev/shm|object at 0x|\.py\b|ONNXRuntimeError|onnxruntime_src"
)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory, start: Any) -> Iterator[Any]:
    """A server on which everything is allowed."""
    folder = add_examples(tmp_path_factory.mktemp("mutations") / "models")
    shutil.rmtree(folder / "simple_string")  # a graph that itself fails where a text is no number
    add_bundle(folder, "batched", detector=True)
    add_bundle(folder, "single", single=True)
    settings = {"model_control_mode": "explicit", "load_model": "*", "system_shared_memory": 1}
    with start(folder, threads=1, log_level="warning", **settings) as running:
        yield running


def bodies(images: Images, request_for: Callable[..., Any]) -> Bodies:
    """Valid bodies by the path of their call."""
    named = {"name": "batched", "model_name": "batched"}
    texts = service_pb2.ModelInferRequest(model_name="simple_identity", id="7")
    tensor = texts.inputs.add(name="INPUT0", datatype="BYTES", shape=[1, 16])
    tensor.contents.bytes_contents.extend(b"%d" % n for n in range(16))
    asked = request_for("single", images[:1])
    asked.outputs.add(name="logits").parameters["classification"].int64_param = 2
    asked.parameters["priority"].uint64_param = 1
    load = service_pb2.RepositoryModelLoadRequest(model_name="simple_identity")
    load.parameters["config"].string_param = '{"max_batch_size": "2"}'
    sent = service_pb2.RepositoryModelLoadRequest(model_name="sent")
    sent.parameters["config"].string_param = '{"max_batch_size": "2"}'
    sent.parameters["file:1/model.onnx"].bytes_param = identity(FLOAT, ["N", 1]).SerializeToString()
    log = service_pb2.LogSettingsRequest()
    log.settings["log_verbose_level"].uint32_param = 0
    memory = service_pb2.SystemSharedMemoryRegisterRequest(name="x", key="/nothing", byte_size=8)
    explain = paths_pb2.ExplainRequest(
        model_name="batched", datatype="FP32", shape=[1, 3, 8, 8], images=images[:1].tobytes()
    )
    infers = [request_for("batched", images[:2]), request_for("single", images[:1]), texts, asked]
    own = {
        "ModelInfer": infers,
        "ModelStreamInfer": infers,
        "RepositoryModelLoad": [load, sent],
        "RepositoryModelUnload": [service_pb2.RepositoryModelUnloadRequest(model_name="nobody")],
        "LogSettings": [log],
        "SystemSharedMemoryRegister": [memory],
        "Explain": [explain],
    }
    found: Bodies = {}
    for service in (INFERENCE, PATHS):
        for method in service.methods:
            if method.name == "WatchFlags":  # has no end
                continue
            plain: Any = GetMessageClass(method.input_type)()
            for field in method.input_type.fields_by_name:
                if field in named:
                    setattr(plain, field, named[field])
            messages = own.get(method.name) or [plain]
            path = f"/{service.full_name}/{method.name}"
            found[path] = [message.SerializeToString() for message in messages]
    return found


def mutated(body: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to four changes."""
    data = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + rng.randrange(1, 9)]
        elif kind == 4:
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 5:
            data[place:place] = data[place : place + rng.randrange(1, 40)]
        else:
            other = rng.choice(others)
            data[place:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data)


async def feed(url: str, found: Bodies, seed: int) -> tuple[Counter[tuple[str, str]], set[str]]:
    """Send them all; returns the statuses by call, and what was said."""
    rng = random.Random(seed)
    paths, others = list(found), [body for some in found.values() for body in some]
    heavy = [path for path in paths if path.endswith(("Infer", "Explain"))]
    statuses: Counter[tuple[str, str]] = Counter()
    said: set[str] = set()

    async def client(channel: grpc.aio.Channel) -> None:
        for _ in range(BODIES // AT_ONCE + 1):
            path = rng.choice(heavy if rng.random() < 0.6 else paths)
            body = mutated(rng.choice(found[path]), others, rng)
            code, details = await send(channel, path, body)
            statuses[path.rpartition("/")[2], code.name] += 1
            said.add(details)
            if code is StatusCode.INTERNAL:
                assert INTERNAL.search(details), (path, body, details)

    async with grpc.aio.insecure_channel(url) as channel:
        await asyncio.gather(*(client(channel) for _ in range(AT_ONCE)))
    return statuses, said


async def send(channel: grpc.aio.Channel, path: str, body: bytes) -> tuple[StatusCode, str]:
    if path.endswith("StreamInfer"):
        stream: Any = channel.stream_stream(path)
        call = stream(iter([body]), timeout=TIMEOUT)
        try:
            answers = [answer async for answer in call]
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        messages = [service_pb2.ModelStreamInferResponse.FromString(answer) for answer in answers]
        return StatusCode.OK, " ".join(message.error_message for message in messages)
    unary: Any = channel.unary_unary(path)
    try:
        await unary(body, timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return StatusCode.OK, ""


@long
def test_mutated_bodies_are_answered_or_refused(
    fed: Any, images: Images, request_for: Callable[..., Any], record_property: Record
) -> None:
    statuses, said = asyncio.run(feed(fed.url, bodies(images, request_for), seed=BODIES))
    assert statuses.total() >= BODIES
    by_code: Counter[str] = Counter()
    for (_, code), count in statuses.items():
        by_code[code] += count
    record_property("bodies by status", told(by_code))
    codes = by_code.keys()
    assert codes <= REFUSALS | {"INTERNAL"}, statuses
    assert {method for method, _ in statuses} == {
        method.name for service in (INFERENCE, PATHS) for method in service.methods
    } - {"WatchFlags"}
    leaks = [text for text in said if tempfile.gettempdir() in text or LEAK.search(text)]
    assert not leaks
    # Alive, idle, and with the right answers still.
    with grpc.insecure_channel(fed.url) as channel:
        load: Any = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
        load(
            service_pb2.RepositoryModelLoadRequest(model_name="batched").SerializeToString(), timeout=TIMEOUT
        )
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = infer(request_for("batched", images).SerializeToString(), timeout=TIMEOUT)
    response = service_pb2.ModelInferResponse.FromString(answer)
    assert response.parameters["penstock_adversarial"].string_param.count(",") == len(images) - 1
    values = metrics(fed)
    for name in ("penstock_running", "nv_inference_pending_request_count"):
        assert all(value == 0 for key, value in values.items() if key.startswith(name + "{"))
    assert "Traceback" not in fed.log.read_text()
    assert fed.stop() == 0
