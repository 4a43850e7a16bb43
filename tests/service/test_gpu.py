"""On a machine with a CUDA device: the same answers as on the CPU. Elsewhere these tests skip and say why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from penstock.bundle import INPUT, LOGITS, OUTPUTS, PATH, SCORE, read_bundle
from penstock.service import client
from penstock.service.arenas import WINDOW
from penstock.service.devices import CPU, CUDA, Device, find_device
from penstock.service.session import Session


@pytest.fixture(scope="module")
def cuda() -> Device:
    device = find_device()
    if device.why_not_cuda:
        pytest.skip(f"no CUDA device: {device.why_not_cuda}")
    return device


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["batched", "single"])
def test_cuda_answers_as_the_cpu_does(
    model: str, cuda: Device, repository: Path, images: npt.NDArray[np.float32]
) -> None:
    bundle = read_bundle(repository / model / "1")
    on_gpu, on_cpu = (Session(bundle.model_file, device, threads=1) for device in (cuda, Device(CPU)))
    assert on_gpu.on_cuda
    assert not on_cpu.on_cuda
    batch = images[:1] if bundle.manifest.single else images
    got, expected = (session.run({INPUT: batch}, OUTPUTS) for session in (on_gpu, on_cpu))
    for name in (LOGITS, SCORE):
        np.testing.assert_allclose(got[name], expected[name], atol=1e-3)
    np.testing.assert_array_equal(got[PATH], expected[PATH])


@pytest.mark.gpu
def test_cuda_gives_memory_back(cuda: Device, repository: Path, images: npt.NDArray[np.float32]) -> None:
    """Runs that give back, from both arenas, go on giving the same answers."""
    session = Session(read_bundle(repository / "batched" / "1").model_file, cuda, threads=1)
    assert session._session.get_provider_options()[CUDA]["arena_extend_strategy"] == "kSameAsRequested"
    expected = session.run({INPUT: images}, OUTPUTS)[LOGITS]
    for _ in range(WINDOW + 1):
        got = session.run({INPUT: images[:1]}, OUTPUTS)[LOGITS]
        np.testing.assert_allclose(got, expected[:1], atol=1e-3)


@pytest.mark.gpu
def test_server_that_requires_a_gpu_serves_on_it(
    cuda: Device, repository: Path, start: object, images: npt.NDArray[np.float32]
) -> None:
    assert callable(start)
    with start(repository, require_gpu=1) as server:
        assert client.infer(server.url, "batched", images).logits.shape[0] == len(images)
