import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from penstock.data import ImageSet, Splits, load
from penstock.errors import ConfigurationError, NotFoundError
from penstock.files import sha256
from penstock.learn import disentangle as module
from penstock.learn.disentangle import disentangle
from penstock.learn.disentangle_config import FORMS, DisentangleConfig, MeasureConfig
from penstock.learn.runs import training_batches
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE, load_sub_architectures

RUN = """
import json, sys
from pathlib import Path
from penstock.learn.disentangle import disentangle
from penstock.learn.disentangle_config import DisentangleConfig
from penstock.records import read_record
config = read_record(DisentangleConfig, json.loads(sys.argv[1]))
disentangle(config, Path(sys.argv[2]), progress=False, say=lambda line: print(line, flush=True))
"""


@pytest.fixture(scope="module", params=FORMS)
def config(request: pytest.FixtureRequest, trained_digits: Path) -> DisentangleConfig:
    """Seconds: a trained network for digits, few steps, two betas, of which one closes everything.

    Half of the filters are closed at the start: what the network knows has to be found again.
    """
    return DisentangleConfig(
        data="digits",
        backbone="digits-cnn",
        start=str(trained_digits),
        form=request.param,
        beta=(0.01, 1000.0),
        steps=24,
        step_size=1.0,
        batch_size=4,
        measure=MeasureConfig(validation=10, images=10, mosaics=2, resamples=20),
    )


@pytest.fixture(scope="module")
def run(config: DisentangleConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, said = tmp_path_factory.mktemp("runs") / "disentangled", list[str]()
    disentangle(config, folder, progress=False, say=said.append)
    (folder / "said").write_text("\n".join(said))
    return folder


def test_the_beta_is_chosen_that_keeps_the_network_s_decisions(run: Path) -> None:
    figures = json.loads((run / "figures.json").read_text())
    assert figures["beta"] == 0.01
    good, closed = figures["candidates"]
    assert good["kept"] > 0.5 > closed["kept"]
    assert closed["density"] < 0.1 < good["density"]
    (told,) = (line for line in (run / "said").read_text().splitlines() if "keep" in line)
    missed = good["kept"] < 0.9
    assert told.startswith("below keep: 90.0% of" if missed else "beta 0.01 is taken: it keeps")


def test_figures_are_those_of_the_sub_architectures(run: Path) -> None:
    result = load_sub_architectures(run / SUB_ARCHITECTURES_FILE)
    figures = json.loads((run / "figures.json").read_text())
    assert figures == json.loads(json.dumps(result.figures))
    assert figures["layers"] == list(result.layout.names)
    np.testing.assert_allclose(figures["tasks"]["mac_share"], result.paths.active_macs)
    np.testing.assert_allclose(figures["density_by_layer"], result.paths.layer_density())
    assert figures["dense_accuracy"] > 0.8
    assert np.mean(figures["tasks"]["recall"]) > 0.8
    assert [each["mask_rate"] for each in figures["hits"]] == [0.05, 0.1]
    assert figures["training_images"] == [69, 71, 69, 71, 71, 71, 70, 70, 68, 70]
    np.testing.assert_array_equal(result.network().paths.bits, result.paths.bits)


def test_a_finished_run_is_given_back_and_another_configuration_refused(
    run: Path, config: DisentangleConfig
) -> None:
    said: list[str] = []
    again = disentangle(config, run, progress=False, say=said.append)
    assert said == [f"{run} is finished already"]
    assert again.figures["beta"] == 0.01
    with pytest.raises(ConfigurationError, match="another configuration: choose another folder"):
        disentangle(dataclasses.replace(config, seed=1), run, progress=False)


def test_what_cannot_work_does_not_claim_the_folder(config: DisentangleConfig, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no weights to start from"):
        disentangle(dataclasses.replace(config, start="nowhere.pth"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def without(images: ImageSet, names: tuple[str, ...], *left_out: int) -> ImageSet:
    """The images of the first classes, those that are named, but for some."""
    kept = (images.labels < len(names)) & ~np.isin(images.labels, left_out)
    return dataclasses.replace(images.take(kept), class_names=names)


@pytest.mark.parametrize(
    ("classes", "mosaics", "absent", "message"),
    [
        (2, 0, None, "2 classes are too few to disentangle; at least 3"),
        (3, 2, None, "3 classes; a mosaic needs 4: set mosaics of measure to 0"),
        (5, 2, "test", "no test image of class 2: its sub-architecture could not be judged"),
        (5, 2, "validation", "no validation image of class 2"),
    ],
)
def test_what_could_not_be_measured_is_refused_before_anything_is_searched(
    classes: int,
    mosaics: int,
    absent: str | None,
    message: str,
    config: DisentangleConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits, names = load("digits"), tuple("0123456789"[:classes])
    parts = {
        part: without(getattr(splits, part), names, *([2] if part == absent else []))
        for part in ("train", "validation", "test")
    }
    calibration = parts["test"].take([])
    monkeypatch.setattr(module, "load", lambda *_, **__: Splits(calibration=calibration, **parts))
    wanted = dataclasses.replace(config, measure=dataclasses.replace(config.measure, mosaics=mosaics))
    with pytest.raises(ConfigurationError, match=message):
        disentangle(wanted, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", ["digits", "cifar10", "folder:here"])
def test_images_are_varied_as_in_decoupling(
    data: str, config: DisentangleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        """Ends the run once it is known what was asked for."""

    def streams(*_: object, padding: int, flip: bool, **__: object) -> None:
        raise Asked(padding, flip)

    splits = load("digits")
    monkeypatch.setattr(module, "load", lambda *_, **__: splits)
    monkeypatch.setattr(module, "ClassStreams", streams)
    with pytest.raises(Asked) as asked:
        disentangle(dataclasses.replace(config, data=data), tmp_path / "run", progress=False)
    batches = training_batches(splits, data, size=8, seed=0, views=1)
    assert asked.value.args == (batches.padding, batches.flip)


def test_a_killed_run_goes_on_to_the_same_bytes(run: Path, config: DisentangleConfig, tmp_path: Path) -> None:
    """Killed in the middle of the second search."""
    command = [sys.executable, "-c", RUN, json.dumps(config.to_json()), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for said in process.stdout:
            if said.startswith("searching digits-cnn's class masks with beta 1000"):
                time.sleep(0.2)
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / SUB_ARCHITECTURES_FILE).exists()
    disentangle(config, tmp_path / "run", progress=False)
    for name in (SUB_ARCHITECTURES_FILE, "figures.json", "config.json"):
        assert sha256(tmp_path / "run" / name) == sha256(run / name), name
