"""The page of a real disentanglement, short as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.cli import main
from penstock.learn.disentangle import disentangle
from penstock.learn.disentangle_config import DisentangleConfig, MeasureConfig
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sub-architectures of the dense network of another run."""
    folder = tmp_path_factory.mktemp("runs")
    weights = folder / "dense.pt"
    torch.save(load_checkpoint(tiny_run / CHECKPOINT_FILE).dense.state_dict(), weights)
    config = DisentangleConfig(
        data="digits",
        backbone="digits-cnn",
        start=str(weights),
        beta=(0.01,),
        steps=4,
        batch_size=4,
        measure=MeasureConfig(validation=10, images=10, mosaics=2, resamples=20),
    )
    disentangle(config, folder / "apart", progress=False)
    return folder / "apart"


def test_it_shows_what_the_run_measured(run: Path, tmp_path: Path) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    figures = json.loads((run / "figures.json").read_text(encoding="utf-8"))
    assert '<section id="disentanglement"' in page
    assert f"{figures['similarity']:.2f}" in page
    assert f"{figures['hits'][0]['mean'][-1]:.0%} in the last; chance is 25%." in page
    assert f"<td>{figures['tasks']['recall'][9]:.1%}</td>" in page
    assert "penstock disentangle --config FILE --out apart" in page
    agreement, errors = figures["agreement"], figures["errors"]
    for key in ("answers", "concepts"):
        assert f'<section id="{key}"' in page
    assert f"correlation is {agreement['spearman']:.2f}." in page  # under the picture against confusion
    assert f"{errors['errors']:,} were misread" in page
    assert f"A path holds {figures['concepts']['diversity']:.1f} of them" in page
    similar = np.array(agreement["similarity"])
    assert similar.shape == np.array(agreement["confusion"]).shape == (10, 10)
    assert similar[~np.eye(10, dtype=bool)].mean() == pytest.approx(figures["similarity"])
    assert "http" not in page
