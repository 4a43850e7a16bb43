"""The committed code is what the generator makes of the proto file today."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATOR = "1.76.0"


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    try:
        found = version("grpcio-tools")
    except PackageNotFoundError:
        found = "none"
    if found != GENERATOR:
        pytest.skip(f"needs grpcio-tools {GENERATOR}, found {found}")
    outputs = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    proto = "penstock/service/v1/paths.proto"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", *outputs, f"proto/{proto}"],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    generated = sorted((tmp_path / proto).parent.iterdir())
    assert [file.name for file in generated] == ["paths_pb2.py", "paths_pb2.pyi", "paths_pb2_grpc.py"]
    for file in generated:
        assert (ROOT / "service" / "v1" / file.name).read_text() == file.read_text(), "run `make proto`"
