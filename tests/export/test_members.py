"""A cascade's members as bundles of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.data import load
from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import open_bundle
from penstock.nn.assembly import Member, assemble
from penstock.nn.cascade import Cascade
from penstock.nn.cascade_member import member_checkpoint
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.gates import GateConfig
from penstock.nn.inference import answer
from penstock.nn.prototypes import ConsolidatedNetwork, PrototypeConfig, set_prototypes


@pytest.fixture(scope="module")
def cascade(tiny: Checkpoint) -> Checkpoint:
    """Half of the filters first; behind it, all of them."""
    layers = len(tiny.network.layout.layers)
    static = Member(gate=GateConfig(), prototypes=PrototypeConfig(count=1, stages=(layers,)))
    network = assemble(tiny.dense, torch.zeros(1, *tiny.input_shape), (static, static)).eval()
    assert isinstance(network, Cascade)
    torch.manual_seed(0)
    for member, share in ((network.first, 0.5), (network.second, 1.0)):
        assert isinstance(member, ConsolidatedNetwork)
        bits = [torch.full_like(router.prototypes, share).bernoulli() for router in member.routers]
        set_prototypes(member, bits)
    return replace(tiny, members=(static, static), network=network)


def test_a_member_alone_answers_as_it_does_in_its_cascade(cascade: Checkpoint, tmp_path: Path) -> None:
    source = tmp_path / "cascade.safetensors"
    cascade.save(source)
    options = ExportOptions(
        source=str(source), repository=tmp_path, name="small", member="first", lowering="routed"
    )
    said: list[str] = []
    bundle = export(options, said.append)
    assert isinstance(cascade.network, Cascade)
    images = load("digits").test.images[:50]
    want, got = answer(cascade.network.first, images), open_bundle(bundle, threads=1).run(images)
    np.testing.assert_allclose(got["logits"], want.logits, atol=1e-4)
    np.testing.assert_array_equal(got["path"], want.bits)
    assert not got["adversarial"].any()
    manifest = bundle.manifest
    assert manifest.source["member"] == "first"
    assert manifest.calibration is None
    assert manifest.form == "routed, static"
    assert said[-1] == f"at {manifest.layout.names[0]}: static"
    assert manifest.executed_macs < 0.75
    assert manifest.layout == cascade.network.first.layout


def test_the_second_member_is_the_other_one_and_can_be_saved(cascade: Checkpoint, tmp_path: Path) -> None:
    second = member_checkpoint(cascade, "second")
    second.save(tmp_path / "second.safetensors")
    images = load("digits").test.images[:20]
    assert isinstance(cascade.network, Cascade)
    np.testing.assert_array_equal(
        answer(second.network, images).logits, answer(cascade.network.second, images).logits
    )
    assert answer(second.network, images).bits.all()
    assert not second.detector


def test_members_that_are_not_there_are_refused(
    tiny: Checkpoint, tmp_path: Path, cascade: Checkpoint
) -> None:
    with pytest.raises(UnsupportedError, match="no cascade, so it has no first member"):
        member_checkpoint(tiny, "first")
    with pytest.raises(InvalidArgumentError, match="no member 'third'; there are first and second"):
        member_checkpoint(cascade, "third")
    with pytest.raises(InvalidArgumentError, match="no member 'third'; there are first, second"):
        ExportOptions(source="x", repository=tmp_path, name="x", member="third")
    with pytest.raises(InvalidArgumentError, match="leave dense and class_name out"):
        ExportOptions(source="x", repository=tmp_path, name="x", member="first", dense=True)
