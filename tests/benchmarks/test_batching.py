"""The benchmark of shared runs, in a form that takes seconds: its figures mean nothing, its table is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import table_batching

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "batching.py"


def test_table_of_what_was_measured() -> None:
    results = json.loads((SCRIPT.parent / "results" / "batching.json").read_text())
    lines = table_batching.everything(results)
    assert len(lines) == 2 + len(results["rows"]) + 2
    assert all(line.count("|") == lines[0].count("|") for line in lines[:-2])


@pytest.mark.slow
def test_reduced_form(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--only", "ResNet-20", "--concurrency", "1", "2"]
    command += ["--rounds", "1", "--seconds", "0.1", "--out", str(tmp_path)]
    subprocess.run(command, check=True, timeout=200)
    results = json.loads((tmp_path / "batching.json").read_text())
    (row,) = results["rows"]
    assert row["ms"].keys() == {"1", "4", "8", "16"}
    assert all(rate["per_second"] > 0 for rate in row["rates"])
    assert {(rate["requests"], rate["concurrency"]) for rate in row["rates"]} == {
        (name, at_once) for name in ("alone", "shared") for at_once in (1, 2)
    }
    assert sum(line.startswith("| ResNet-20, masked") for line in table_batching.everything(results)) == 1
