"""The service in environments of their own: another project's client, and an installation without torch.

Both install packages, so they are slow. The Dockerfile cannot be built everywhere; what can be imitated of
it is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from penstock.bundle import OUTPUTS
from penstock.service import client

Images = npt.NDArray[np.float32]

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()

ASK_WITH_KSERVE = """
import asyncio, json, sys
import grpc, numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

async def main(url, model, file):
    images = np.load(file)
    raw = InferInput("images", list(images.shape), "FP32")
    raw.set_data_from_numpy(images, binary_data=True)
    typed = InferInput("images", list(images.shape), "FP32", data=images.ravel().tolist())
    async with InferenceGRPCClient(url) as client:
        ready = [await client.is_server_live(), await client.is_server_ready()]
        ready.append(await client.is_model_ready(model))
        requests = [InferRequest(model, [tensor], request_id="7") for tensor in (raw, typed)]
        answers = [await client.infer(request) for request in requests]
        try:
            await client.infer(InferRequest("nobody", [raw]))
        except grpc.RpcError as error:
            refused = error.code().name
    print(json.dumps({
        "ready": ready,
        "refused": refused,
        "ids": [answer.id for answer in answers],
        "flags": [answer.parameters["penstock_adversarial"].string_param for answer in answers],
        "outputs": [
            {output.name: output.as_numpy().tolist() for output in answer.outputs} for answer in answers
        ],
    }))

asyncio.run(main(*sys.argv[1:]))
"""


def environment(folder: Path, *requirements: str, cwd: Path | None = None) -> Path:
    """A virtual environment with these packages; returns its ``bin`` folder."""
    venv.create(folder, with_pip=True, clear=True)
    arguments = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements]
    subprocess.run(arguments, check=True, cwd=cwd, timeout=1500)
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kserve_client(server: Any, images: Images, tmp_path: Path) -> None:
    python = environment(tmp_path / "kserve", "kserve") / "python"
    np.save(tmp_path / "images.npy", images)
    for model in ("batched", "single"):
        asked = subprocess.run(
            [python, "-c", ASK_WITH_KSERVE, server.url, model, tmp_path / "images.npy"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert asked.returncode == 0, asked.stderr
        answer = json.loads(asked.stdout.splitlines()[-1])
        assert answer["ready"] == [True, True, True]
        assert answer["refused"] == "NOT_FOUND"
        assert answer["ids"] == ["7", "7"]
        assert answer["flags"] == ["0,0,0,0,1"] * 2
        found = client.infer(server.url, model, images)
        ours = {name: getattr(found, name) for name in OUTPUTS}
        for outputs in answer["outputs"]:
            assert outputs.keys() == ours.keys()
            for name, values in outputs.items():
                np.testing.assert_allclose(values, ours[name], rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_installation_of_the_image_serves_without_torch(
    repository: Path, images: Images, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in copied_from_context():
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, source / path, symlinks=True)
        else:
            shutil.copy(ROOT / path, source / path)
    assert "ARG EXTRAS=serve" in DOCKERFILE
    binaries = environment(tmp_path / "image", ".[serve]", cwd=source)
    for check in re.findall(r'/python -c "([^"]+)"', "\n".join(DOCKERFILE)):
        subprocess.run([str(binaries / "python"), "-c", check], check=True, cwd=tmp_path, timeout=120)

    with image_server(binaries, repository, tmp_path) as url:
        assert client.infer(url, "single", images).adversarial[:, 0].tolist() == [False] * 4 + [True]
        probe = [str(binaries / "python"), "-m", "penstock.service.probe", url]
        assert subprocess.run(probe, timeout=60).returncode == 0


@contextmanager
def image_server(binaries: Path, repository: Path, folder: Path) -> Iterator[str]:
    """The image's entrypoint in its environment, but for the ports."""
    variables = dict(re.findall(r"(PENSTOCK_\w+)=(\S+)", "\n".join(DOCKERFILE)))
    variables |= {"PENSTOCK_MODEL_REPOSITORY": str(repository)}
    variables |= {"PENSTOCK_GRPC_PORT": "0", "PENSTOCK_METRICS_PORT": "0"}
    command = [str(binaries / "penstock"), "serve"]
    with subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"at 0\.0\.0\.0:(\d+) ", line)
            assert found, line
            yield f"127.0.0.1:{found[1]}"
            process.terminate()
            assert process.wait(timeout=60) == 0
        finally:
            if process.poll() is None:
                process.kill()


def copied_from_context() -> list[str]:
    """Files and folders that the Dockerfile takes from the checkout."""
    copies = [line.split()[1:-1] for line in DOCKERFILE if line.startswith("COPY") and "--from" not in line]
    return [path for paths in copies for path in paths]


def test_dockerfile_copies_what_is_there_and_runs_unprivileged() -> None:
    paths = copied_from_context()
    assert {"service", "src", "pyproject.toml"} <= set(paths)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for path in paths:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, f".dockerignore hides {path}"
    final = DOCKERFILE[max(index for index, line in enumerate(DOCKERFILE) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in final
    assert 'ENTRYPOINT ["penstock", "serve"]' in final
    assert any("penstock.service.probe" in line for line in final)
    assert not any("torch" in line for line in final)


def test_service_never_imports_torch() -> None:
    check = "import sys, penstock.service.server, penstock.service.client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=120).returncode == 0
