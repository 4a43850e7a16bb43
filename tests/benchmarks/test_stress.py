"""What long tests counted is written down, failures as well, and the rest stays."""

from __future__ import annotations

import json
from pathlib import Path

import stress
import table_stress
from machine import about

TESTS = """
import pytest

pytestmark = pytest.mark.slow

def test_right(record_property):
    record_property("answers", 3)

def test_wrong(record_property):
    record_property("answers", 2)
    assert False

@pytest.mark.skip
def test_elsewhere():
    pass
"""


def test_what_tests_counted_is_written_down(tmp_path: Path) -> None:
    file = tmp_path / "test_long.py"
    file.write_text(TESTS)
    old = {"test": "tests/test_old.py::test_it", "passed": True, "seconds": 60.0, "counted": {}}
    (tmp_path / stress.FILE).write_text(json.dumps({"rows": [old | {"machine": about()}]}))
    for _ in range(2):  # the second replaces the first
        strict = ("-W", "error:record_property", "-p", "no:cacheprovider")
        assert stress.main([str(file), *strict, "--out", str(tmp_path)]) == 1
    rows = json.loads((tmp_path / stress.FILE).read_text())["rows"]
    found = {row["test"].rpartition("::")[2]: (row["passed"], row["counted"]) for row in rows}
    assert len(rows) == 3
    assert found == {
        "test_it": (True, {}),
        "test_right": (True, {"answers": "3"}),
        "test_wrong": (False, {"answers": "2"}),
    }
    lines = table_stress.everything({"rows": rows})
    assert any("answers: 2 | **no** |" in line for line in lines)
    assert any(line.startswith("| `test_old.py::test_it` | | yes | 1.0 |") for line in lines)
