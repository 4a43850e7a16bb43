"""The serving benchmark, in a form that takes seconds: its figures mean nothing, its tables are whole."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import table_ray
import table_serving

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving.py"
MACHINE = {"date": "2026-01-01", "commit": "x", "cpu": "c", "cores": 1, "python": "3", "versions": {}}


def test_reduced_form(tmp_path: Path) -> None:
    out = tmp_path / "serving.json"
    command = [sys.executable, str(SCRIPT), "--only", "Penstock", "--sizes", "32", "--concurrency", "1", "2"]
    command += ["--rounds", "1", "--seconds", "0.1", "--overload", "0", "--out", str(out)]
    subprocess.run(command, check=True, timeout=120)
    results = json.loads(out.read_text())
    assert results["skipped"] == {}
    rows = {(row["server"], row["concurrency"]): row for row in results["rows"]}
    assert rows.keys() == {
        ("bare grpc.aio", 1),
        ("bare grpc.aio", 2),
        ("Penstock", 1),
        ("Penstock", 2),
        ("ONNX Runtime, no server", 1),
    }
    assert all(0 < row["p50_ms"] <= row["p99_ms"] and row["requests_per_second"] > 0 for row in rows.values())
    phases = rows["Penstock", 1]["phases_us"]
    assert 0 < phases["compute_infer"] < phases["success"]
    table = table_serving.servers(results)
    assert sum(line.startswith("| 32x32 ") for line in table) == 5
    assert any(line.startswith("| Penstock | ") for line in table_serving.summary(results))
    assert sum(line.startswith("| 32x32 ") for line in table_serving.phases(results)) == 2
    assert phases != rows["Penstock", 2]["phases_us"], "each concurrency has its own"
    assert table_serving.limits(results) == [], "without peers there is nothing to judge by"
    assert table_serving.overload(results) == []


@pytest.mark.alone
def test_overload_in_a_reduced_form(tmp_path: Path) -> None:
    out = tmp_path / "serving.json"
    command = [
        sys.executable,
        str(SCRIPT),
        "--only",
        "Penstock",
        "--sizes",
        "--overload",
        "1.5",
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, timeout=120)
    load = json.loads(out.read_text())["overload"]
    accepted, refused = load["accepted"], load["refused"]
    sent = load["offered_per_second"] * load["seconds"]
    assert 0.5 * sent < accepted["count"] + refused["count"] <= sent
    for times in (accepted, refused):
        assert 0 < times["p50_ms"] <= times["p99_ms"] <= times["largest_ms"]
    assert refused["p50_ms"] < accepted["p50_ms"], "who is refused does not wait"
    ((outcome, count),) = load["refusals"].items()
    assert outcome.startswith(table_serving.REFUSAL)
    assert count == refused["count"] > accepted["count"]
    results = {"overload": load, "rows": [], "machine": MACHINE}
    assert sum(line.startswith("| overload: ") for line in table_serving.limits(results)) == 5
    assert f"| refused | {count:,} |" in "\n".join(table_serving.overload(results))


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({}, []),
        ({"accepted": {"count": 9, "p99_ms": 201.0}}, ["p99 of the accepted"]),
        ({"accepted": {"count": 0}}, ["p99 of the accepted"]),
        ({"refused": {"count": 9, "p99_ms": 20.0, "largest_ms": 51.0}}, ["largest of refusals"]),
        (
            {"refused": {"count": 9, "p99_ms": 51.0, "largest_ms": 51.0}},
            ["p99 of refusals", "largest of refusals"],
        ),
        ({"refusals": {table_serving.REFUSAL: 8, "INTERNAL: x": 1}}, ["documented status"]),
        ({"memory_growth": 1.04}, ["memory"]),
        ({"recovery_ms": 1001.0}, ["first answer"]),
    ],
)
def test_promises_of_overload_are_judged(change: dict[str, Any], fails: list[str]) -> None:
    load: dict[str, Any] = {
        "bound_ms": 100.0,
        "accepted": {"count": 9, "p99_ms": 200.0},
        "refused": {"count": 9, "p99_ms": 20.0, "largest_ms": 50.0},
        "refusals": {f"{table_serving.REFUSAL}: 16 wait": 9},
        "memory_growth": 1.02,
        "recovery_ms": 12.0,
    }
    lines = table_serving.limits({"rows": [], "machine": MACHINE, "overload": load | change})[2:8]
    broken = [line for line in lines if line.endswith("| no |")]
    assert len(lines) == 6
    assert len(broken) == len(fails)
    assert all(fail in line for fail, line in zip(fails, broken, strict=True))


@pytest.mark.parametrize(
    ("rate", "kept"), [(90.0, ["yes", "no", "no"]), (97.0, ["yes", "yes", "no"]), (101.0, ["yes"] * 3)]
)
def test_promises_are_judged(rate: float, kept: list[str]) -> None:
    rows = [
        {
            "server": server,
            "size": 32,
            "concurrency": 1,
            "native": server == "C",
            "p50_ms": p50,
            "requests_per_second": each,
        }
        for server, p50, each in (
            ("bare grpc.aio", 1.0, 200.0),
            ("Penstock", 1.25, rate),
            ("A", 2.0, 100.0),
            ("C", 1.0, 500.0),
        )
    ]
    lines = table_serving.limits({"rows": rows, "machine": MACHINE})
    assert [line.split(" | ")[-1].removesuffix(" |") for line in lines[2:5]] == kept


def test_peers_that_are_left_out_are_named() -> None:
    peers = {"KServe SDK": {"kserve": "0.21.0", "onnxruntime": "1.32.0"}}
    results = {"rows": [], "skipped": {"MLServer": "pip: no"}, "machine": MACHINE, "peers": peers}
    lines = table_serving.servers(results)
    assert "MLServer is not here: pip: no." in lines
    assert "KServe SDK: kserve 0.21.0, onnxruntime 1.32.0." in lines


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an optional extra: penstock[ray]")
def test_ray_in_a_reduced_form(tmp_path: Path) -> None:
    out = tmp_path / "ray.json"
    command = [sys.executable, str(SCRIPT.with_name("ray_scaling.py")), "--replicas", "1", "--rounds", "1"]
    subprocess.run(
        [*command, "--seconds", "0.2", "--at-once", "2", "--out", str(out)], check=True, timeout=240
    )
    results = json.loads(out.read_text())
    assert {(row["server"], row["model"]) for row in results["rows"]} == {
        (server, model) for server in ("penstock serve", "Ray, 1 replica") for model in ("model", "work")
    }
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in results["rows"])
    assert sum("Ray, 1 replica" in line for line in table_ray.scaling(results)) == 2
