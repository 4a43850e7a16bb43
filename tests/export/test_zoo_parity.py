"""The zoo's networks, compiled, on real images that they never saw: cascades by prototypes, gates with masks.

What is promised of them: in float32 the answers and paths of PyTorch, in int8 and float16 nearly the classes of their
own float32 form, and no loss of accuracy that one would see.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from penstock.data import ImageSet, load
from penstock.export.captured import CapturedNetwork, capture_paths
from penstock.export.compiling import Compiled, compile_paths
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.precision.agreement import compare
from penstock.export.runtime import Outputs, open_graph
from penstock.export.sample import Sample
from penstock.export.verify.parity import reference, verify
from penstock.manifest import FP16, FP32, INT8
from penstock.nn.cascade import RAN
from penstock.nn.checkpoint import load_source

FPR = 0.05
CLOSE = 1e-4  # logits in float32
NARROW = (INT8, FP16)
ALIKE, LOST = 0.985, 0.005  # of these: share of the same classes at least, accuracy at most


@dataclass(frozen=True)
class Extent:
    """How many images a network is compiled with and compared on; ``None``: all there are."""

    calibration: int | None
    test: int | None


ALL = Extent(calibration=None, test=None)
FEW = Extent(calibration=100, test=100)  # of fewer than 67, a single other class is more than int8 may cost


@dataclass(frozen=True, eq=False)
class Subject:
    """A network of the zoo at all precisions, and what they answer about held-out images."""

    captured: CapturedNetwork
    compiled: dict[str, Compiled]
    images: ImageSet
    answers: dict[str, Outputs]

    def accuracy(self, precision: str) -> float:
        return float((self.answers[precision]["logits"].argmax(axis=1) == self.images.labels).mean())


def subject_of(name: str, extent: Extent, lowering: Lowering) -> Subject:
    if not os.environ.get("PENSTOCK_DATA"):
        pytest.skip("PENSTOCK_DATA is not set: no real images to test on")
    checkpoint, _ = load_source(f"zoo:{name}")
    splits = load(checkpoint.config["data"])
    sample = Sample(splits.calibration.images[: extent.calibration], real=True)
    captured = capture_paths(checkpoint, sample, FPR)
    compiled = {precision: compile_paths(captured, lowering, precision) for precision in (FP32, *NARROW)}
    images = splits.test.take(np.arange(len(splits.test))[: extent.test])
    answers = {
        precision: open_graph(each.content, single=each.single).run(images.images)
        for precision, each in compiled.items()
    }
    return Subject(captured, compiled, images, answers)


def subjects(few: str, *names: str) -> list[Any]:
    """Parameters of a fixture: one with few images, and with all of them these."""
    slow = [pytest.mark.slow, pytest.mark.timeout(3600)]
    return [
        pytest.param((few, FEW), id=f"{few}-few"),
        *(pytest.param((name, ALL), id=name, marks=slow) for name in names),
    ]


@pytest.fixture(
    scope="module",
    params=subjects("vgg16-cifar10", "resnet56-cifar10", "vgg16-cifar10", "squeezenet-caltech25"),
)
def cascade(request: pytest.FixtureRequest) -> Subject:
    name, extent = request.param
    return subject_of(name, extent, Routed())


@pytest.fixture(scope="module", params=subjects("resnet20-cifar10", "resnet20-cifar10"))
def gated(request: pytest.FixtureRequest) -> Subject:
    name, extent = request.param
    return subject_of(name, extent, Masked())


def check_float32(subject: Subject) -> None:
    layout = subject.captured.checkpoint.network.layout
    expected = reference(subject.captured.served, subject.images.images)
    found = verify(expected, subject.answers[FP32], layout)
    assert found.max_abs <= CLOSE
    assert found.top1_agreement >= 0.999
    assert found.images_flipped <= len(subject.images) / 1000


def check_narrow(subject: Subject, precision: str) -> None:
    found = compare(subject.answers[FP32], subject.answers[precision], real=True)
    assert found.top1_agreement is not None
    assert found.top1_agreement >= ALIKE
    assert subject.accuracy(FP32) - subject.accuracy(precision) <= LOST


def test_cascade_in_float32_answers_as_pytorch_does(cascade: Subject) -> None:
    check_float32(cascade)


def test_cascade_asks_its_second_member_about_some_images_only(cascade: Subject) -> None:
    layout = cascade.captured.checkpoint.network.layout
    for outputs in cascade.answers.values():
        ran = dict(zip(layout.names, layout.split(outputs["path"]), strict=True))[RAN]
        assert 0 < ran.mean() < 1


@pytest.mark.parametrize("precision", NARROW)
def test_narrow_cascade_answers_as_in_float32_and_is_as_accurate(cascade: Subject, precision: str) -> None:
    check_narrow(cascade, precision)


def test_gates_in_float32_answer_as_pytorch_does(gated: Subject) -> None:
    check_float32(gated)


@pytest.mark.parametrize("precision", NARROW)
def test_narrow_gates_answer_as_in_float32_and_are_as_accurate(gated: Subject, precision: str) -> None:
    check_narrow(gated, precision)
