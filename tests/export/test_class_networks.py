"""Sub-architectures of classes, compiled: as small as their paths, and equal to the masked network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from penstock.data import load
from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.export.captured import capture_paths
from penstock.export.compiling import compile_paths
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.pipeline import ExportOptions, export
from penstock.export.plans.inputs import inputs_of
from penstock.export.runtime import open_bundle, open_graph
from penstock.export.sample import Sample
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.class_masks import Use, attach_class_masks
from penstock.nn.class_network import class_checkpoint
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE, SubArchitectures


@pytest.fixture(scope="module")
def found(tiny: Checkpoint) -> SubArchitectures:
    """The dense network of the tiny run with random masks."""
    masked = attach_class_masks(tiny.dense, torch.zeros(1, *tiny.input_shape), 10)
    return SubArchitectures(
        backbone=tiny.backbone,
        class_names=tiny.class_names,
        input_shape=tiny.input_shape,
        dense=tiny.dense,
        layout=masked.layout,
        scores=torch.randn(10, masked.layout.bits, generator=torch.Generator().manual_seed(0)),
        config={"data": "digits"},
    )


def test_a_class_is_compiled_to_a_small_static_network(found: SubArchitectures) -> None:
    images = load("digits").test.images[:100]
    captured = capture_paths(class_checkpoint(found, "7"), Sample(images, real=True), fpr=None)
    small, whole = (compile_paths(captured, lowering) for lowering in (Routed(), Masked()))
    assert small.parity.images_flipped == 0
    assert small.executed_macs == pytest.approx(found.paths.active_macs[7], abs=1e-6)
    assert len(small.content) < len(whole.content)
    assert not {"If", "Softmax"} & {
        node.op_type for node in onnx.load_model_from_string(small.content).graph.node
    }
    got = open_graph(small.content, single=False, threads=1).run(images)
    with torch.no_grad():
        floats = torch.from_numpy(images).float() / 255
        wanted = found.network()(floats, torch.full((100,), 7), Use.HARD)
    np.testing.assert_allclose(got["logits"], wanted, atol=1e-4, rtol=0)
    assert (got["path"] == found.paths.bits[7]).all()


def test_a_class_is_exported_from_the_run_folder_of_its_disentanglement(
    found: SubArchitectures, tmp_path: Path
) -> None:
    run = tmp_path / "classes"
    run.mkdir()
    found.save(run / SUB_ARCHITECTURES_FILE)
    options = ExportOptions(
        source=str(run), repository=tmp_path / "models", name="seven", class_name="7", lowering="routed"
    )
    bundle = export(options)
    assert bundle.manifest.source["class"] == "7"
    assert bundle.manifest.calibration is None
    asked = found.paths.active_macs[7]
    assert asked <= bundle.manifest.executed_macs < 1.1 * asked  # widths are multiples of four
    images = load("digits").test.images[:10]
    got = open_bundle(bundle, threads=1).run(images)
    assert (got["path"] == found.paths.bits[7]).all()
    assert not got["adversarial"].any()


def test_another_class_is_another_input_of_a_plan(found: SubArchitectures, tmp_path: Path) -> None:
    file = tmp_path / SUB_ARCHITECTURES_FILE
    found.save(file)
    seven, again, eight = (
        inputs_of(ExportOptions(source=source, repository=tmp_path, name="x", class_name=name))
        for source, name in ((str(file), "7"), (str(tmp_path), "7"), (str(file), "8"))
    )
    assert seven == again != eight
    assert seven["images"] is not None


def test_a_class_wants_a_disentanglement_and_no_dense_network(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="penstock disentangle"):
        export(ExportOptions(source=str(tmp_path), repository=tmp_path, name="x", class_name="7"))
    with pytest.raises(InvalidArgumentError, match="take one of both"):
        ExportOptions(source="x", repository=tmp_path, name="x", class_name="7", dense=True)
