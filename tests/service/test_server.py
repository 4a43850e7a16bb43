"""The server inside a program of one's own, and the examples of its documentation."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from penstock.service import client
from penstock.service.probe import is_serving
from penstock.service.server import Server
from penstock.service.settings import Settings

Images = npt.NDArray[np.float32]

DOCS = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


def test_two_servers_in_one_process_share_nothing(repository: Path, images: Images) -> None:
    def ask(first: str, second: str) -> tuple[int, int]:
        client.infer(first, "batched", images)
        with client.PathClient(first) as one, client.PathClient(second) as other:
            return one.path_profile("batched").window, other.path_profile("batched").window

    async def scenario() -> tuple[int, int]:
        settings = Settings(model_repository=repository, grpc_port=0, metrics_port=0, threads=1)
        servers = [Server(settings), Server(settings)]
        for server in servers:
            await server.start()
        urls = [f"127.0.0.1:{server.grpc_port}" for server in servers]
        try:
            return await asyncio.to_thread(ask, *urls)
        finally:
            for server in servers:
                await server.stop()
            assert not await asyncio.to_thread(is_serving, urls[0])

    assert asyncio.run(scenario()) == (5, 0)


def test_ipv6(repository: Path, start: Callable[..., Any]) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with start(repository, host="::1") as running:
        assert running.url.startswith("[::1]:")
        assert is_serving(running.url)


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL))
def test_documentation_examples_run(server: Any, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    for written, here in (("127.0.0.1:8001", server.url), ("resnet20", "batched"), ("32, 32", "8, 8")):
        code = code.replace(written, here)
    names: dict[str, Any] = {}
    exec(code, names)
    assert capsys.readouterr().out
    if "client" in names:
        names["client"].close()
