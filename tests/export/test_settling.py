"""Settled gates, compiled: what nothing decides on is not asked about, and not run if it is closed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from penstock.data import load
from penstock.errors import InvalidArgumentError
from penstock.export.captured import capture_paths, settled
from penstock.export.compiling import Compiled, compile_paths
from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.masked import Masked
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import open_bundle, open_graph
from penstock.export.sample import Sample
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.inference import answer

IMAGES = load("digits").calibration.images


def compiled(tiny: Checkpoint, images: int, lowering: Gathered | Masked) -> Compiled:
    """Settled by the paths of a few images, verified, and compiled."""
    captured = capture_paths(tiny, Sample(IMAGES[:images], real=True), fpr=None)
    return compile_paths(settled(captured), lowering)


def convolutions(content: bytes) -> list[tuple[int, ...] | None]:
    """Sizes of the weights; ``None`` where they are chosen when the graph runs."""
    graph = onnx.load_model_from_string(content).graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return [constants.get(node.input[1]) for node in graph.node if node.op_type == "Conv"]


def test_a_network_settled_by_one_image_is_static_and_as_narrow_as_its_path(tiny: Checkpoint) -> None:
    small = compiled(tiny, 1, Gathered())
    path = answer(tiny.network, IMAGES[:1]).bits[0]
    widths = [int(bits.sum()) for bits in tiny.network.layout.split(path)]
    _, *gated = convolutions(small.content)  # the first one has no gate
    assert [size and size[0] for size in gated] == widths
    assert not {"NonZero", "ScatterND"} & {
        node.op_type for node in onnx.load_model_from_string(small.content).graph.node
    }


@pytest.mark.parametrize("images", [2, 5, 40])
def test_a_partly_settled_network_answers_alike_in_every_lowering(tiny: Checkpoint, images: int) -> None:
    gathered, masked = (compiled(tiny, images, lowering) for lowering in (Gathered(), Masked()))
    assert None in convolutions(gathered.content)
    got, wanted = (
        open_graph(each.content, single=each.single, threads=1).run(IMAGES[:50])
        for each in (gathered, masked)
    )
    np.testing.assert_array_equal(got["path"], wanted["path"])
    np.testing.assert_allclose(got["logits"], wanted["logits"], atol=1e-4)


def test_settling_is_an_option_of_the_export(tiny: Checkpoint, tiny_run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = ExportOptions(
        source=str(tiny_run), repository=tmp_path, name="x", flags=False, settle=True, lowering="gathered"
    )
    bundle = export(options, said.append)
    paths = answer(tiny.network, IMAGES).bits
    never, always = int((~paths.any(axis=0)).sum()), int(paths.all(axis=0).sum())
    told = {record.name: record.changed for record in bundle.manifest.passes}
    assert told["drop filters that no image opens"] == never > 0
    assert told["merge filters that every image opens"] == always > 0
    assert set(map(str, bundle.manifest.passes)) <= set(said)
    got = open_bundle(bundle, threads=1).run(IMAGES[:50])
    np.testing.assert_array_equal(got["path"], answer(tiny.network, IMAGES[:50]).bits)


def test_without_images_of_its_data_set_nothing_is_settled(
    tiny_run: Path, tmp_path: Path, tiny: Checkpoint
) -> None:
    file = tmp_path / "elsewhere.safetensors"
    replace(tiny, config={**tiny.config, "data": "cifar10"}).save(file)
    options = ExportOptions(source=str(file), repository=tmp_path, name="x", flags=False, settle=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PENSTOCK_DATA", raising=False)
        with pytest.raises(InvalidArgumentError, match="needs images of its data set"):
            export(options)
