"""The zoo's cascades, compiled by prototypes, on real images that they never saw.

What is promised of them: in float32 the answers and paths of PyTorch, in int8 nearly the classes of their own float32
form, and no loss of accuracy that one would see.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pytest

from penstock.data import ImageSet, load
from penstock.export.captured import CapturedNetwork, capture_paths
from penstock.export.compiling import Compiled, compile_paths
from penstock.export.lowerings.routed import Routed
from penstock.export.precision.agreement import compare
from penstock.export.runtime import Outputs, open_graph
from penstock.export.sample import Sample
from penstock.export.verify.parity import reference, verify
from penstock.manifest import FP32, INT8
from penstock.nn.cascade import RAN
from penstock.nn.checkpoint import load_source

FPR = 0.05
CLOSE = 1e-4  # logits in float32
ALIKE, LOST = 0.985, 0.005  # at int8: share of the same classes at least, accuracy at most


@dataclass(frozen=True)
class Extent:
    """How many images a network is compiled with and compared on; ``None``: all there are."""

    calibration: int | None
    test: int | None


ALL = Extent(calibration=None, test=None)
FEW = Extent(calibration=100, test=100)  # of fewer than 67, a single other class is more than int8 may cost


@dataclass(frozen=True, eq=False)
class Subject:
    """A cascade of the zoo in float32 and int8, and what both answer about held-out images."""

    captured: CapturedNetwork
    compiled: dict[str, Compiled]
    images: ImageSet
    answers: dict[str, Outputs]

    def accuracy(self, precision: str) -> float:
        return float((self.answers[precision]["logits"].argmax(axis=1) == self.images.labels).mean())


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("vgg16-cifar10", FEW), id="vgg16-few"),
        *(
            pytest.param((name, ALL), id=name, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])
            for name in ("resnet56-cifar10", "vgg16-cifar10", "squeezenet-caltech25")
        ),
    ],
)
def cascade(request: pytest.FixtureRequest) -> Subject:
    if not os.environ.get("PENSTOCK_DATA"):
        pytest.skip("PENSTOCK_DATA is not set: no real images to test on")
    name, extent = request.param
    checkpoint, _ = load_source(f"zoo:{name}")
    splits = load(checkpoint.config["data"])
    sample = Sample(splits.calibration.images[: extent.calibration], real=True)
    captured = capture_paths(checkpoint, sample, FPR)
    compiled = {precision: compile_paths(captured, Routed(), precision) for precision in (FP32, INT8)}
    images = splits.test.take(np.arange(len(splits.test))[: extent.test])
    answers = {
        precision: open_graph(each.content, single=each.single).run(images.images)
        for precision, each in compiled.items()
    }
    return Subject(captured, compiled, images, answers)


def test_cascade_in_float32_answers_as_pytorch_does(cascade: Subject) -> None:
    layout = cascade.captured.checkpoint.network.layout
    expected = reference(cascade.captured.served, cascade.images.images)
    found = verify(expected, cascade.answers[FP32], layout)
    assert found.max_abs <= CLOSE
    assert found.top1_agreement >= 0.999
    assert found.images_flipped <= len(cascade.images) / 1000


def test_cascade_asks_its_second_member_about_some_images_only(cascade: Subject) -> None:
    layout = cascade.captured.checkpoint.network.layout
    for outputs in cascade.answers.values():
        ran = dict(zip(layout.names, layout.split(outputs["path"]), strict=True))[RAN]
        assert 0 < ran.mean() < 1


def test_cascade_in_int8_answers_as_in_float32_and_is_as_accurate(cascade: Subject) -> None:
    found = compare(cascade.answers[FP32], cascade.answers[INT8], real=True)
    assert found.top1_agreement is not None
    assert found.top1_agreement >= ALIKE
    assert cascade.accuracy(FP32) - cascade.accuracy(INT8) <= LOST
