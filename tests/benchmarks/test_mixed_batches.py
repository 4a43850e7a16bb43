"""The benchmark of mixed batches on a tiny graph: its figures mean nothing, what is compared is right."""

from __future__ import annotations

from pathlib import Path

import mixed_batches
import numpy as np
import onnx
import table_mixed_batches

from penstock.bundle import PATH
from penstock.export.autotune.measure import LEAST_BATCHES, feeds
from penstock.service.devices import CPU, Device
from penstock.service.session import Session
from tests.service.bundles import SHAPE, tiny_graph

BATCH = 8
MACHINE = {"date": "2026-01-01", "commit": "x", "cpu": "c", "cores": 1, "python": "3", "versions": {}}


def test_same_images_every_way(tmp_path: Path) -> None:
    onnx.save(tiny_graph(single=False), tmp_path / "model.onnx")
    session = Session(tmp_path / "model.onnx", Device(CPU), threads=1)
    colours = np.random.default_rng(5).integers(256, size=(LEAST_BATCHES * BATCH, SHAPE[0], 1, 1))
    images = np.broadcast_to(colours, (len(colours), *SHAPE)).astype(np.uint8)
    found = mixed_batches.compare(session, images, BATCH, seconds=0.1)
    assert found["ms"].keys() == {"one by one", "mixed", "sorted", "alike"}
    assert all(ms > 0 for ms in found["ms"].values())
    paths = np.concatenate([session.run(feed, [PATH])[PATH] for feed in feeds(images, 1)])
    kinds = len(np.unique(paths, axis=0))
    # Sorted, a kind is in one batch, but where batches meet in one of them.
    assert found["paths"]["sorted"] * LEAST_BATCHES <= kinds + LEAST_BATCHES - 1
    assert 1 <= found["paths"]["sorted"] < found["paths"]["mixed"] <= BATCH


def test_table() -> None:
    row = {
        "network": "net",
        "size": 32,
        "batch": 16,
        "ms": {"one by one": 4.0, "mixed": 2.0, "sorted": 1.9, "alike": 1.5},
        "paths": {"mixed": 7.25, "sorted": 2.5},
    }
    results = {"machine": MACHINE, "where": "its CPU, threads: 1", "rows": [row]}
    lines = table_mixed_batches.everything(results)
    assert lines[2] == "| net, 32x32 | 16 | 7.2 / 2.5 | 4.00 | 2.00 | 1.90 | 1.50 | 5% | 25% |"
    assert "1 cores, its CPU, threads: 1;" in lines[-1]
