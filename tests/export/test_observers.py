"""Exports of networks with observers, served and explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.bundle import read_bundle
from penstock.data import load
from penstock.errors import UnsupportedError
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import open_bundle
from penstock.learn.cascade import cascade
from penstock.learn.config import Schedule
from penstock.learn.consolidate import consolidate
from penstock.learn.consolidate_config import ConsolidateConfig
from penstock.learn.observe import observe
from penstock.learn.observe_config import ObserveConfig
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint
from penstock.nn.inference import answer

CONFIG = ObserveConfig(steps=200)


@pytest.fixture(scope="module")
def observed(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with observers: a dense network, gates, and a cascade of a static path and the dense network."""
    folder = tmp_path_factory.mktemp("observed")
    tune = Schedule(epochs=2, batch_size=64, learning_rate=0.05)
    consolidate(str(tiny_run), ConsolidateConfig(count=1, tune=tune), folder / "k1", progress=False)
    cascade(str(folder / "k1"), None, folder / "cascade", budget=0.9)
    for name, source, dense in (
        ("dense", tiny_run, True),
        ("gates", tiny_run, False),
        ("both", folder / "cascade", False),
    ):
        observe(str(source), CONFIG, folder / name, dense=dense)
    return {name: folder / name for name in ("dense", "gates", "both")}


@pytest.mark.parametrize(
    ("name", "lowering", "precision"),
    [
        ("dense", "masked", "int8"),
        ("gates", "gathered", "fp32"),
        ("both", "routed", "fp32"),
        ("both", "routed", "int8"),
    ],
)
def test_graphs_flag_by_what_observers_say(
    observed: dict[str, Path], name: str, lowering: str, precision: str, tmp_path: Path
) -> None:
    export(
        ExportOptions(
            source=str(observed[name]),
            repository=tmp_path,
            name="m",
            lowering=lowering,
            precision=precision,
        )
    )
    images = load("digits").test.images[:200]
    want = answer(load_checkpoint(observed[name] / CHECKPOINT_FILE).network, images)
    bundle = read_bundle(tmp_path / "m" / "1")
    graph = open_bundle(bundle, threads=1)
    got = graph.run(images)
    assert (got["path"] == want.bits).mean() > (0.999 if precision == "fp32" else 0.95)
    assert bundle.manifest.layout.watching.bits == 2 * 16
    assert 0 < got["adversarial"].mean() < 0.2
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    assert graph.run(noise)["adversarial"].mean() > 0.2  # at a promised 0.05


def test_without_flags_nobody_looks_on(observed: dict[str, Path], tmp_path: Path) -> None:
    source = str(observed["both"])
    made = {
        flags: export(
            ExportOptions(
                source=source, repository=tmp_path, name=f"m{flags}", lowering="routed", flags=flags
            )
        )
        for flags in (True, False)
    }
    layouts = {flags: bundle.manifest.layout for flags, bundle in made.items()}
    assert layouts[False].rules.all()
    assert layouts[False].bits == layouts[True].bits - 2 * 16
    images = load("digits").test.images[:200]
    got = {flags: open_bundle(bundle, threads=1).run(images) for flags, bundle in made.items()}
    np.testing.assert_allclose(got[False]["logits"], got[True]["logits"], atol=1e-4)
    assert (got[False]["active_macs"] < got[True]["active_macs"]).all()
    assert not got[False]["adversarial"].any()
    alone = export(ExportOptions(source=source, repository=tmp_path, name="first", member="first"))
    assert alone.manifest.layout.rules.all()
    with pytest.raises(UnsupportedError, match="export that, with --dense"):
        export(ExportOptions(source=str(observed["dense"]), repository=tmp_path, name="never", flags=False))


def test_networks_with_observers_carry_what_suits_them(observed: dict[str, Path], tmp_path: Path) -> None:
    options = ExportOptions(source=str(observed["gates"]), repository=tmp_path, name="m", lowering="masked")
    calibration = export(options).manifest.calibration
    assert calibration is not None
    assert calibration.detector == "minimum:gate-mahalanobis+doubt"
