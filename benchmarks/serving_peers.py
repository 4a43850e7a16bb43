"""The servers of the serving benchmark: how each is installed and started, and what it is asked by."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

SCRIPTS = Path(__file__).with_name("peers")
PENSTOCK = "Penstock"
FLOOR = "bare grpc.aio"
RAW = "ONNX Runtime, no server"


class Unavailable(Exception):
    """A peer that cannot be measured here, and why."""


@dataclass(frozen=True)
class Peer:
    """A server in an environment of its own.

    Attributes:
        name: for the table.
        script: in ``peers``; takes the model's file and a port. Empty for Penstock.
        requirements: for its environment; none: that of this script will do.
        native: whether its front end is not Python, so that it stands apart.
    """

    name: str
    script: str = ""
    requirements: tuple[str, ...] = ()
    native: bool = False


PEERS = (
    Peer(FLOOR, "bare_grpc.py"),
    Peer(PENSTOCK),
    Peer("KServe SDK", "kserve_sdk.py", ("kserve", "onnxruntime")),
    Peer("MLServer", "mlserver_runtime.py", ("mlserver", "onnxruntime", "uvloop<0.22")),
    # Its older services import what protobuf 6 has no more, and older releases of tritonclient go with protobuf 5.
    Peer(
        "BentoML", "bentoml_service.py", ("bentoml[grpc]", "onnxruntime", "tritonclient[grpc]", "protobuf<6")
    ),
    # The reflection package of a newer gRPC wants a newer protobuf than tritonclient takes.
    Peer(
        "Ray Serve",
        "ray_serve.py",
        ("ray[serve-grpc]", "onnxruntime", "tritonclient[grpc]", "grpcio-reflection<1.82"),
    ),
    Peer("PyTriton", "pytriton_api.py", ("nvidia-pytriton", "onnxruntime"), native=True),
)


def python_of(peer: Peer, environments: Path) -> Path:
    """The interpreter of a peer's environment, which is made where it is not there yet.

    Raises:
        Unavailable: its packages cannot be installed.
    """
    if not peer.requirements:
        return Path(sys.executable)
    home = environments / Path(peer.script).stem
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        venv.create(home, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *peer.requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(home)
            raise Unavailable(f"pip: {_last_line(done.stderr)}")
        (home / "complete").touch()
    return python


def versions_of(peer: Peer, python: Path) -> dict[str, str]:
    """Versions of what a peer's environment was made of, by package."""
    names = [re.split(r"[\[<>=!~]", requirement)[0] for requirement in peer.requirements]
    asked = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    done = subprocess.run([str(python), "-c", asked, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@contextmanager
def running(peer: Peer, python: Path, repository: Path, cores: Sequence[int], log: Path) -> Iterator[str]:
    """Start a peer on some cores, or on all where none is named; yields its address once it answers.

    Raises:
        Unavailable: it ends, or is silent for a minute.
    """
    with serving(peer, python, repository, cores, log) as (url, _):
        yield url


@contextmanager
def serving(
    peer: Peer,
    python: Path,
    repository: Path,
    cores: Sequence[int],
    log: Path,
    options: Sequence[str] = (),
) -> Iterator[tuple[str, int]]:
    """As `running`, with the number of its process; the options are Penstock's.

    Raises:
        Unavailable: it ends, or is silent for a minute.
    """
    port = free_port()
    if peer.script:
        command = [str(python), str(SCRIPTS / peer.script), _model(repository), str(port)]
    else:
        command = [str(python), "-m", "penstock.cli", "serve", "--model-repository", str(repository)]
        command += ["--grpc-port", str(port), "--metrics-port", "0", "--threads", "1"]
        command += ["--log-level", "error", *options]
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            if cores:
                os.sched_setaffinity(process.pid, cores)
            _wait(process, port, log)
            yield f"127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(ProcessLookupError):  # some leave processes of theirs behind
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _model(repository: Path) -> str:
    return str(repository / "model" / "1" / "model.onnx")


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 60
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while time.monotonic() < end:
            if process.poll() is not None:
                raise Unavailable(f"ended at its start: {_last_line(log.read_text(errors='replace'))}")
            try:
                stub.ModelInfer(service_pb2.ModelInferRequest(model_name="nobody"), timeout=1)
            except grpc.RpcError as error:
                # Any answer of its own will do; only a port that nobody listens at has this status.
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    return
            time.sleep(0.2)
    raise Unavailable("did not answer for a minute")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "without a word"
