"""Run the long tests in their full forms, and write what each saw into ``results/stress.json``.

    python benchmarks/stress.py                              # all of them, hours: `make stress`
    python benchmarks/stress.py tests/service -k soak        # whatever else pytest takes
    python benchmarks/stress.py tests/service --out /tmp     # and what follows --out is ours

Tests tell what they counted with pytest's ``record_property``. A test that was skipped leaves what is known of it as it
is; so does every test that was not asked for. The exit status is that of pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS, about

from penstock.files import write_atomic

FILE = "stress.json"
ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, collect, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    given, for_pytest = parser.parse_known_args(arguments)
    machine = about()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # Of the report's forms only this one has what tests record.
        family = ("-o", "junit_family=xunit1")
        command = [sys.executable, "-m", "pytest", "-m", "slow", f"--junitxml={report}", *family, *for_pytest]
        code = subprocess.run(command, cwd=ROOT, env=os.environ | {"PENSTOCK_STRESS": "1"}).returncode
        new = outcomes(report.read_text(encoding="utf-8")) if report.is_file() else []
    file = given.out / FILE
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    told = {row["test"] for row in new}
    rows = [row for row in rows if row["test"] not in told]
    rows += [row | {"machine": machine} for row in new]
    rows.sort(key=lambda row: str(row["test"]))
    write_atomic(file, json.dumps({"rows": rows}, indent=2) + "\n")
    return code


def outcomes(report: str) -> list[dict[str, Any]]:
    """What became of the tests that were not skipped, and what they counted, from a report in JUnit's XML."""
    return [
        {
            "test": f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}",
            "passed": not any(part.tag in ("failure", "error") for part in case),
            "seconds": float(case.attrib["time"]),
            "counted": {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")},
        }
        for case in ElementTree.fromstring(report).iter("testcase")
        if case.find("skipped") is None
    ]


if __name__ == "__main__":
    sys.exit(main())
