"""The dashboard shows metrics that the server has."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "penstock.json"


def test_dashboard_asks_for_metrics_that_there_are(server: Any) -> None:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=30) as page:
        served = set(re.findall(r"^# TYPE (\S+)", page.read().decode(), re.MULTILINE))
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b(?:nv|penstock)_\w+", target["expr"])
    }
    assert len(asked) > 10
    histograms = re.compile("_(bucket|count)$")
    assert {name if name in served else histograms.sub("", name) for name in asked} <= served
