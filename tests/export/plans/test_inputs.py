"""What a bundle depends on, so that one that would come out the same is not made again."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import penstock
import penstock.export
from penstock.bundle import INPUTS_FILE, newest_bundle, versions
from penstock.errors import NotFoundError
from penstock.export.options import ExportOptions
from penstock.export.pipeline import export
from penstock.export.plans import on_ray
from penstock.export.plans.inputs import _compiler, _images, inputs_of, standing, to_json
from penstock.export.plans.outcome import MADE, THERE
from penstock.export.plans.work import make
from penstock.export.recalibrate import RecalibrateOptions, recalibrate
from tests.export.plans.plan_files import untrained


def test_inputs_follow_content_and_options_not_places(options: ExportOptions, checkpoints: Path) -> None:
    inputs = inputs_of(options)
    assert inputs == inputs_of(replace(options, source=str(checkpoints / "0.safetensors"), name="other"))
    assert inputs != inputs_of(replace(options, source=str(checkpoints / "1.safetensors")))
    for change in ({"dense": False}, {"lowering": "masked"}, {"fpr": 0.1}, {"threads": 2}):
        assert inputs != inputs_of(replace(options, **change))
    assert inputs["versions"].keys() >= {"penstock", "torch", "onnx", "onnxruntime"}


def test_inputs_follow_the_images(options: ExportOptions, tmp_path: Path) -> None:
    assert inputs_of(options)["images"] is None
    replace(untrained(0), config={"data": "digits"}).save(tmp_path / "digits.safetensors")
    images = inputs_of(replace(options, source=str(tmp_path / "digits.safetensors")))["images"]
    assert list(images) == ["calibration"]
    assert re.fullmatch("[0-9a-f]{64}", images["calibration"])
    replace(untrained(0), config={"data": "cifar10"}).save(tmp_path / "cifar10.safetensors")
    with pytest.raises(NotFoundError, match="no cifar10_train"):
        inputs_of(replace(options, source=str(tmp_path / "cifar10.safetensors"), data=tmp_path))


def folder_set(root: Path, *, training_level: int) -> str:
    """The name of a data set of 60 images in two classes; of one training image the level is given."""
    draw = np.random.default_rng(0)
    for part, label, number in product(("train", "test"), ("cat", "dog"), range(15)):
        file = root / part / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        level = training_level if (part, label, number) == ("train", "cat", 3) else 0
        pixels = draw.integers(0, 200, (8, 8, 3), np.uint8) + np.uint8(level)
        Image.fromarray(pixels).save(file)
    return f"folder:{root}?size=8"


def test_inputs_follow_training_images_where_a_detector_is_fitted_to_them(
    options: ExportOptions, tmp_path: Path
) -> None:
    def images(level: int, **change: Any) -> dict[str, str]:
        name = folder_set(tmp_path / f"images{level}", training_level=level)
        source = tmp_path / f"{level}.safetensors"
        replace(untrained(0), config={"data": name}).save(source)
        found: dict[str, str] = inputs_of(replace(options, source=str(source), **change))["images"]
        return found

    assert images(0) == images(50)  # with gates or dense as they are, nobody looks at training images
    gates = str(shutil.copy(options.source, tmp_path / "gates.safetensors"))
    for change in (
        {"observe": True},
        {"dense": False, "gates": gates},
        {"dense": False, "detector": "doubt"},
    ):
        before, after = images(0, **change), images(50, **change)
        assert before["calibration"] == after["calibration"]
        assert before["train"] != after["train"]
    assert images(0, dense=False, flags=False) == images(0)


def test_inputs_follow_validation_images_where_these_give_the_scales(
    options: ExportOptions, tmp_path: Path
) -> None:
    name = folder_set(tmp_path / "images", training_level=0)
    source = tmp_path / "0.safetensors"
    replace(untrained(0), config={"data": name}).save(source)
    narrow = replace(options, source=str(source), precision="int8")
    before = inputs_of(narrow)["images"]
    assert before.keys() == {"calibration", "validation"}
    for file in (tmp_path / "images" / "train").rglob("*.png"):  # a tenth of these is for validation
        Image.fromarray(np.asarray(Image.open(file)) // 2).save(file)
    _images.cache_clear()  # of one plan
    after = inputs_of(narrow)["images"]
    assert after["calibration"] == before["calibration"]
    assert after["validation"] != before["validation"]


def test_inputs_follow_the_code_of_the_compiler(
    options: ExportOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = inputs_of(options)
    assert re.fullmatch("[0-9a-f]{64}", before["compiler"])
    room = shutil.copytree(next(iter(penstock.export.__path__)), tmp_path / "export")
    with (room / "passes" / "finish.py").open("a") as file:
        file.write("# another version of it\n")
    monkeypatch.setattr(penstock.export, "__path__", [str(room)])
    _compiler.cache_clear()
    after = inputs_of(options)
    assert after == before | {"compiler": after["compiler"]} != before
    package = tmp_path / "penstock"
    package.mkdir()
    for module in Path(penstock.__file__).parent.glob("*.py"):
        shutil.copy(module, package)
    monkeypatch.setattr(penstock, "__path__", [str(package), *penstock.__path__])
    (package / "paths.py").write_text("# costs are counted in another way\n")
    _compiler.cache_clear()
    last = inputs_of(options)
    _compiler.cache_clear()
    assert last["compiler"] not in (before["compiler"], after["compiler"])


def test_inputs_of_what_no_file_holds_are_its_name(options: ExportOptions) -> None:
    assert inputs_of(replace(options, source="timing:resnet18"))["source"] == {"name": "timing:resnet18"}


def test_only_a_whole_newest_version_of_the_same_inputs_stands(options: ExportOptions) -> None:
    inputs = inputs_of(options)
    home = options.repository / options.name
    assert standing(options, inputs) is None
    made = export(options, also={INPUTS_FILE: to_json(inputs)})
    assert standing(options, inputs) == made
    assert standing(options, inputs | {"images": "other"}) is None
    shutil.copytree(home / "1", home / "2")
    with (home / "2" / "model.onnx").open("ab") as file:
        file.write(b"damaged")
    assert standing(options, inputs) is None
    shutil.rmtree(home / "2")
    for text in ("{", "[]"):
        (home / "1" / INPUTS_FILE).write_text(text)
        assert standing(options, inputs) is None
    (home / "1" / INPUTS_FILE).unlink()  # nobody says what it was made from
    assert standing(options, inputs) is None


@pytest.mark.parametrize("missing", ["config.pbtxt", "labels.txt"])
def test_a_version_that_stands_gets_the_files_of_its_model_back(options: ExportOptions, missing: str) -> None:
    inputs = inputs_of(options)
    made = export(options, also={INPUTS_FILE: to_json(inputs)})
    home = made.folder.parent
    written = {name: (home / name).read_text() for name in ("config.pbtxt", "labels.txt")}
    other = next(name for name in written if name != missing)
    (home / missing).unlink()
    (home / other).write_text(written[other] + "# edited\n")
    assert standing(options, inputs) == made
    assert (home / missing).read_text() == written[missing]
    assert (home / other).read_text() == written[other] + "# edited\n"


def test_a_plan_that_runs_again_leaves_a_new_threshold_alone(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(source=str(tiny_run), repository=tmp_path, name="net", lowering="masked")
    first = make(options, lambda _: None)
    assert (first.result, Path(str(first.version)).name) == (MADE, "1")
    calibrated = recalibrate(RecalibrateOptions(bundle=tmp_path / "net", fpr=0.1))
    again_ = make(options, lambda _: None)
    assert (again_.result, Path(str(again_.version)).name) == (THERE, "2")
    assert versions(tmp_path / "net") == [1, 2]
    assert newest_bundle(tmp_path / "net").manifest == calibrated.manifest


def test_a_task_finds_files_and_data_sets_where_the_command_was_called(
    options: ExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, str | None]] = []
    monkeypatch.setattr(on_ray, "make", lambda *_: seen.append((Path.cwd(), os.environ.get("PENSTOCK_DATA"))))
    monkeypatch.chdir("/")  # and back at the end
    monkeypatch.setenv("PENSTOCK_DATA", "where the worker has them")
    for data in ("images", None):
        on_ray._make(options, str(tmp_path), data)
    assert seen == [(tmp_path, "images")] * 2
