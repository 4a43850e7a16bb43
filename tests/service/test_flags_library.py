"""The flags that a server raises are those of the library: PyTorch for the network, numpy for the detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from penstock.bundle import DETECTOR_FILE, Bundle
from penstock.data import load
from penstock.detect.recipe import OF_OBSERVERS
from penstock.detect.tables import tables_from_bytes
from penstock.errors import NotFoundError
from penstock.service import client
from tests.decided import decided
from tests.service.scale import Record, long, scaled

if TYPE_CHECKING:
    from penstock.nn.checkpoint import Checkpoint

Images = npt.NDArray[np.float32]

NEAR = 1e-4  # of the threshold: as far as graphs and library may differ
BATCH = 25

KINDS: dict[str, dict[str, Any]] = {
    "masked": {"lowering": "masked"},
    "observed": {"dense": True, "observe": True},
}


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    pytest.importorskip("torch")
    from penstock.export.pipeline import ExportOptions, export

    models = tmp_path_factory.mktemp("models")
    return {
        kind: export(ExportOptions(source=str(tiny_run), repository=models, name=kind, **options))
        for kind, options in KINDS.items()
    }


def shown(name: str, count: int, size: float) -> Images:
    """So many images that no threshold knows: half of them clean, half of them with noise, so that many are flagged."""
    test = load(name).test
    clean = np.resize(
        test.take(np.arange(min(count // 2, len(test)))).floats(), (count // 2, *test.images.shape[1:])
    )
    signs = np.random.default_rng(0).choice([-size, size], clean.shape).astype(np.float32)
    noisy: Images = np.concatenate([clean, np.clip(clean + signs, 0, 1)])
    return noisy


def of_library(bundle: Bundle, checkpoint: Checkpoint, levels: Images) -> Any:
    """Scores and flags ``[N]`` of images in 0..255."""
    from penstock.nn.detecting import features_of

    calibration = bundle.manifest.calibration
    assert calibration is not None
    score = tables_from_bytes(calibration.detector, (bundle.folder / DETECTOR_FILE).read_bytes())
    scores = score.score(features_of(checkpoint.network, levels))
    return scores, scores > np.float32(calibration.threshold)


def check_flags(url: str, bundle: Bundle, checkpoint: Checkpoint, images: Images) -> str:
    """That the server's scores and flags are the library's, of which there are more where there is noise: how many."""
    answers = [
        client.infer(url, bundle.folder.parent.name, images[begin : begin + BATCH])
        for begin in range(0, len(images), BATCH)
    ]
    served = np.concatenate([answer.adversarial[:, 0] for answer in answers])
    served_scores = np.concatenate([answer.anomaly_score[:, 0] for answer in answers])
    levels = images * np.float32(255)
    scores, flags = of_library(bundle, checkpoint, levels)
    clear = decided(checkpoint.network, levels)
    np.testing.assert_allclose(served_scores[clear], scores[clear], rtol=1e-3, atol=1e-3)
    assert bundle.manifest.calibration is not None
    near = np.abs(scores - bundle.manifest.calibration.threshold) <= NEAR * np.maximum(1, abs(scores))
    assert near.mean() < 0.01
    assert (near | ~clear).mean() < 0.03
    np.testing.assert_array_equal(served[clear & ~near], flags[clear & ~near])
    half = len(images) // 2
    assert flags[half:].mean() > flags[:half].mean()
    return (
        f"{flags.sum()} of {len(flags)}; left out {(~clear).sum()} whose path PyTorch itself is undecided about, "
        f"and {near.sum()} with a score too near the threshold"
    )


@long
def test_served_flags_are_the_librarys(
    exported: dict[str, Bundle], tiny_run: Path, start: Any, record_property: Record
) -> None:
    from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint
    from penstock.nn.observing import observed_checkpoint

    checkpoint = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    checkpoints = {"masked": checkpoint, "observed": observed_checkpoint(checkpoint)}
    images = shown("digits", scaled(1000, 100), size=0.2)
    with start(exported["masked"].folder.parent.parent) as server:
        for kind, bundle in exported.items():
            alike = check_flags(server.url, bundle, checkpoints[kind], images)
            record_property(f"flagged alike, {kind}", alike)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet56-cifar10", "vgg16-cifar10"])
def test_served_flags_of_the_zoo_are_the_librarys(
    name: str, tmp_path: Path, start: Any, record_property: Record
) -> None:
    """As the zoo's cascades are served: routed, flagged by what observers see and by doubt."""
    pytest.importorskip("torch")
    from penstock.export.pipeline import ExportOptions, export
    from penstock.nn.checkpoint import load_source

    checkpoint, _ = load_source(f"zoo:{name}")
    try:
        images = shown("cifar10", 1000, size=8 / 255)
    except NotFoundError as missing:
        pytest.skip(str(missing))
    bundle = export(ExportOptions(source=f"zoo:{name}", repository=tmp_path, name=name, lowering="routed"))
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration.detector == OF_OBSERVERS
    with start(tmp_path) as server:
        record_property("flagged alike", check_flags(server.url, bundle, checkpoint, images))
