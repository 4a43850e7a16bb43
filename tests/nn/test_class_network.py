"""A class's sub-architecture as a network of its own answers as the masked network does for that class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import NotFoundError, UnsupportedError
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import load_checkpoint
from penstock.nn.class_masks import Use, attach_class_masks
from penstock.nn.class_network import class_checkpoint
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE, SubArchitectures

BACKBONES = {"digits-cnn": (1, 8, 8), "squeezenet1_1": (3, 32, 32), "mnasnet": (3, 32, 32)}
NAMES = ("zero", "one", "two")


def disentangled(backbone: str) -> SubArchitectures:
    """A network of three classes with random masks, the last of which closes a layer."""
    torch.manual_seed(0)
    dense = build_backbone(backbone, 3).eval()
    masked = attach_class_masks(dense, torch.zeros(1, *BACKBONES[backbone]), 3)
    scores = torch.randn(3, masked.layout.bits)
    scores[2, masked.layout.slices[1]] = -1
    measured = {"recall": [0.9, 0.8, 0.7], "dense_recall": [0.95, 0.85, 0.75], "cross": [[1.0]]}
    return SubArchitectures(
        backbone=backbone,
        class_names=NAMES,
        input_shape=BACKBONES[backbone],
        dense=dense,
        layout=masked.layout,
        scores=scores,
        config={"data": "digits"},
        figures={"tasks": measured},
    )


@pytest.fixture(scope="module")
def digits() -> SubArchitectures:
    return disentangled("digits-cnn")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_answers_as_the_masked_network_does_under_the_class(backbone: str) -> None:
    found = disentangled(backbone)
    masked, images = found.network(), torch.rand(4, *BACKBONES[backbone])
    for row, name in enumerate(NAMES):
        network = class_checkpoint(found, name).network
        with torch.no_grad():
            wanted = masked(images, torch.full((4,), row), Use.HARD)
            got = network(images)
        torch.testing.assert_close(got.logits, wanted, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(torch.cat(got.codes, 1), found.paths.bits[[row] * 4])


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_any_masks_will_do(seed: int, digits: SubArchitectures) -> None:
    draw = torch.Generator().manual_seed(seed)
    found = replace(
        digits, scores=torch.randn(digits.scores.shape, generator=draw) + torch.randn(3, 1, generator=draw)
    )
    images = torch.rand(2, *found.input_shape, generator=draw)
    with torch.no_grad():
        wanted = found.network()(images, torch.tensor([1, 1]), Use.HARD)
        got = class_checkpoint(found, "one").network(images).logits
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_costs_what_the_class_path_costs(backbone: str) -> None:
    found = disentangled(backbone)
    for row, name in enumerate(NAMES):
        checkpoint = class_checkpoint(found, name)
        assert checkpoint.network.layout == found.layout
        with torch.no_grad():
            cost = checkpoint.network(torch.zeros(1, *found.input_shape)).active_macs.item()
        assert cost == pytest.approx(found.paths.active_macs[row], abs=1e-6)
        assert checkpoint.figures["mac_fraction"] == pytest.approx(cost, abs=1e-6)


def test_its_figures_are_those_of_its_class_where_they_were_measured(digits: SubArchitectures) -> None:
    figures = class_checkpoint(digits, "one").figures
    assert (figures["accuracy"], figures["dense_accuracy"]) == (0.8, 0.85)
    assert figures.keys() == {"accuracy", "dense_accuracy", "mac_fraction"}
    assert class_checkpoint(replace(digits, figures={}), "one").figures.keys() == {"mac_fraction"}


def test_it_is_a_checkpoint_like_any_other(digits: SubArchitectures, tmp_path: Path) -> None:
    checkpoint = class_checkpoint(digits, "two")
    assert checkpoint.config == {"data": "digits", "class": "two"}
    assert (checkpoint.detector, len(checkpoint.calibration)) == ({}, 0)
    checkpoint.save(tmp_path / "two.safetensors")
    again = load_checkpoint(tmp_path / "two.safetensors")
    images = torch.rand(3, 1, 8, 8)
    assert isinstance(again.network, ConsolidatedNetwork)
    with torch.no_grad():
        assert torch.equal(again.network(images).logits, checkpoint.network(images).logits)
        assert torch.equal(again.dense(images), digits.dense(images))


def test_a_run_folder_and_its_file_will_do(digits: SubArchitectures, tmp_path: Path) -> None:
    file = tmp_path / SUB_ARCHITECTURES_FILE
    digits.save(file)
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        wanted, *others = (
            class_checkpoint(source, "zero").network(images).logits for source in (digits, tmp_path, file)
        )
    assert all(torch.equal(other, wanted) for other in others)


def test_what_is_not_there_is_refused_and_the_message_helps(digits: SubArchitectures, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"^no class 'three'; there are zero, one, two$"):
        class_checkpoint(digits, "three")
    with pytest.raises(NotFoundError, match="has `penstock disentangle` ended there"):
        class_checkpoint(tmp_path, "zero")


def test_masks_of_other_layers_are_refused(digits: SubArchitectures) -> None:
    moved = [replace(layer, name=f"old.{layer.name}") for layer in digits.layout.layers]
    found = replace(digits, layout=replace(digits.layout, layers=tuple(moved)))
    with pytest.raises(UnsupportedError, match=r"these masks are for the layers old\..*: disentangle again"):
        class_checkpoint(found, "zero")


def test_the_sub_architectures_stay_as_they_were(digits: SubArchitectures) -> None:
    before = {name: tensor.clone() for name, tensor in digits.dense.state_dict().items()}
    class_checkpoint(digits, "zero").network(torch.rand(2, 1, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in digits.dense.state_dict().items())
