"""The scripts in ``benchmarks/`` are no package: they find each other in their own folder, and so do their tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
