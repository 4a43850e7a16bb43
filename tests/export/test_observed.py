"""A dense network with observers: its answers are untouched, and it flags by what gates see of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from penstock.bundle import Bundle, read_bundle
from penstock.cli.main import main
from penstock.data import load
from penstock.detect import PathDetector, PathFeatures, false_positive_interval
from penstock.errors import InvalidArgumentError, NotFoundError, UnsupportedError, VerificationError
from penstock.export.capture.contract import ServedModel
from penstock.export.capture.exporting import capture
from penstock.export.compiling import serialize
from penstock.export.pipeline import ExportOptions, export
from penstock.export.recalibrate import RecalibrateOptions, recalibrate
from penstock.export.runtime import Outputs, open_bundle, open_graph
from penstock.export.verify.parity import reference, verify, verify_untouched
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.gates import GateConfig
from penstock.nn.inference import answer
from penstock.nn.observed import observe
from penstock.nn.observing import observed_checkpoint
from penstock.nn.surgery import attach_gates
from tests.export.conftest import PLAIN, SHAPE, draw_images


def run(bundle: Bundle, images: Any, batch: int = 250) -> Outputs:
    return open_bundle(bundle, threads=1).run(images, batch)


@pytest.fixture(scope="module")
def observed(tiny: Checkpoint) -> Checkpoint:
    return observed_checkpoint(tiny)


@pytest.mark.parametrize("batch", [1, 7, 250])
def test_answers_are_to_the_bit_those_of_the_dense_bundle(batch: int, bundles: dict[str, Bundle]) -> None:
    images = load("digits").test.images[:200]
    got, alone = run(bundles["observed"], images, batch), run(bundles["dense"], images, batch)
    np.testing.assert_array_equal(got["logits"], alone["logits"])


def test_so_they_are_in_int8(tiny_run: Path, tmp_path: Path) -> None:
    options = ExportOptions(
        source=str(tiny_run), repository=tmp_path, name="alone", dense=True, precision="int8"
    )
    alone, seen = export(options), export(replace(options, name="seen", observe=True))
    images = load("digits").test.images[:200]
    got = run(seen, images)
    np.testing.assert_array_equal(got["logits"], run(alone, images)["logits"])
    assert 0 < got["adversarial"].mean() < 0.3


def test_gates_look_at_the_dense_network_and_flags_follow_from_what_they_see(
    bundles: dict[str, Bundle], observed: Checkpoint
) -> None:
    splits = load("digits")
    bundle = bundles["observed"]
    got, want = run(bundle, splits.test.images), answer(observed.network, splits.test.images)
    np.testing.assert_array_equal(got["path"], want.bits)
    assert 0 < want.bits.mean() < 1
    seen = PathFeatures(want.bits, want.gate_logits, want.predicted)
    scores = PathDetector.from_state(observed.detector).score(seen)
    np.testing.assert_allclose(got["anomaly_score"][:, 0], scores, rtol=1e-4, atol=1e-4)
    calibration = bundle.manifest.calibration
    assert calibration is not None
    assert (bundle.manifest.lowering, calibration.source) == ("observed", "graph")
    low, high = false_positive_interval(len(splits.test), calibration.images, 0.05, 0.999)
    assert low <= got["adversarial"].mean() <= high


def test_observers_are_counted_and_their_bits_save_nothing(
    bundles: dict[str, Bundle], tiny: Checkpoint
) -> None:
    manifest = bundles["observed"].manifest
    whole = tiny.network.layout.active_macs(np.ones((1, tiny.network.layout.bits)))[0]
    assert whole > 1
    assert manifest.executed_macs == pytest.approx(whole)
    got = run(bundles["observed"], load("digits").test.images[:50])
    np.testing.assert_allclose(got["active_macs"], whole, rtol=1e-6)
    assert manifest.layout.active_macs(got["path"]) == pytest.approx(whole)


@pytest.mark.parametrize("name", ["residual", "inverted"])
def test_any_network_that_can_have_gates_can_be_observed(name: str) -> None:
    torch.manual_seed(0)
    dense = PLAIN[name]().eval()
    gates = GateConfig(normalize=True, initial_logit=0.0)
    example = torch.zeros(1, *SHAPE)
    network = observe(dense, attach_gates(dense, example, gates).eval(), example, gates)
    images = draw_images(20)
    served = ServedModel(network, None).eval()
    expected = reference(served, images)
    with torch.no_grad():
        alone = dense(torch.from_numpy(images).float() / 255)
    torch.testing.assert_close(expected.answer.logits, alone, rtol=0, atol=0)
    got = open_graph(serialize(capture(served, SHAPE)), single=False, threads=1).run(images)
    verify(expected, got, network.layout)


def test_the_command_line_makes_one_that_is_calibrated_anew_like_any_bundle(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dense", "--observe", "--input", "uint8", "--repository", str(tmp_path), "--name", "seen"]
    assert main(["export", str(tiny_run), *options]) == 0
    assert "observed, largest difference" in capsys.readouterr().out
    bundle = read_bundle(tmp_path / "seen" / "1")
    again = recalibrate(RecalibrateOptions(bundle=bundle.folder, fpr=0.2))
    images = load("digits").test.images
    before, after = run(bundle, images), run(again, images)
    np.testing.assert_array_equal(before["logits"], after["logits"])
    assert after["adversarial"].mean() > before["adversarial"].mean()


def test_gates_are_normalised_for_what_they_read_of_the_dense_network(observed: Checkpoint) -> None:
    read: dict[str, torch.Tensor] = {}
    norms = {
        name: module
        for name, module in observed.network.named_modules()
        if isinstance(module, nn.BatchNorm1d)
    }
    for name, norm in norms.items():
        norm.register_forward_hook(lambda *call, name=name: read.update({name: call[2]}))
    answer(observed.network, load("digits").train.images[:750], 750)
    assert len(read) == len(observed.network.layout.layers)
    for normalised in read.values():
        varying = normalised.std(dim=0) > 0.1  # a channel that never varies cannot be stretched
        assert normalised.mean(dim=0).abs().max() < 0.2
        assert (normalised.std(dim=0)[varying] - 1).abs().max() < 0.2


def test_gradients_reach_the_image_through_observers(observed: Checkpoint) -> None:
    x = torch.from_numpy(load("digits").test.floats()[:4]).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(observed.network(x).codes[-1].sum(), x)
    assert (gradient != 0).any()


def test_answers_that_differ_are_refused(bundles: dict[str, Bundle]) -> None:
    images = load("digits").test.images[:10]
    alone = run(bundles["dense"], images)
    changed = {**alone, "logits": alone["logits"].copy()}
    changed["logits"][3, 2] = np.nextafter(changed["logits"][3, 2], np.float32(np.inf))
    with pytest.raises(VerificationError, match="1 of 10 answers are not to the bit"):
        verify_untouched(alone, changed)


def test_what_cannot_be_observed_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    for dense, flags in ((False, True), (True, False)):
        with pytest.raises(InvalidArgumentError, match="add --dense"):
            ExportOptions(source="x", repository=tmp_path, name="x", observe=True, dense=dense, flags=flags)
    with pytest.raises(InvalidArgumentError, match="take fp32 or int8"):
        ExportOptions(source="x", repository=tmp_path, name="x", dense=True, observe=True, precision="fp16")
    with pytest.raises(UnsupportedError, match="a cascade has no gates"):
        observed_checkpoint(replace(tiny, members=tiny.members * 2))
    with pytest.raises(NotFoundError, match="need a detector of their own"):
        observed_checkpoint(replace(tiny, config={}))
