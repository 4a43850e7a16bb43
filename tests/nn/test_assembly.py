"""What a checkpoint remembers is enough to put a network together again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from penstock.errors import InvalidArgumentError
from penstock.nn.assembly import Member, assemble
from penstock.nn.backbones import build_backbone
from penstock.nn.cascade import Cascade
from penstock.nn.checkpoint import Checkpoint, load_checkpoint
from penstock.nn.gates import GateConfig
from penstock.nn.prototypes import ConsolidatedNetwork, PrototypeConfig
from penstock.nn.surgery import GatedNetwork

EXAMPLE = torch.zeros(1, 1, 8, 8)
GATES = Member(gate=GateConfig(normalize=True))
ONE = Member(gate=GateConfig(), prototypes=PrototypeConfig(count=1, stages=(1, 3)))
THREE = Member(gate=GateConfig(), prototypes=PrototypeConfig(count=3, stages=(1, 3), hidden=5))
FEW_NORMS = Member(gate=GateConfig(), prototypes=PrototypeConfig(count=2, stages=(2, 2), own_norms=False))
KINDS = {
    "gates": (GATES,),
    "one prototype": (ONE,),
    "three prototypes": (THREE,),
    "common norms": (FEW_NORMS,),
    "cascade": (ONE, ONE),
    "cascade of other kinds": (GATES, THREE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_back_the_network_to_the_bit(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = build_backbone("digits-cnn", 10).eval()
    network = assemble(dense, EXAMPLE, KINDS[kind])
    for name, tensor in network.state_dict().items():
        if name.endswith("prototypes"):
            tensor.bernoulli_(0.6)
        elif name == "threshold":
            tensor.fill_(0.2)
        elif tensor.is_floating_point() and not name.endswith("running_var"):
            tensor.add_(0.1 * torch.randn_like(tensor))
    written = Checkpoint(
        backbone="digits-cnn",
        class_names=tuple("0123456789"),
        input_shape=(1, 8, 8),
        members=KINDS[kind],
        network=network.eval(),
        dense=dense,
    )
    written.save(tmp_path / "file")
    loaded = load_checkpoint(tmp_path / "file")
    assert loaded.members == KINDS[kind]
    assert loaded.network.layout == network.layout
    images = torch.rand(20, 1, 8, 8)
    with torch.no_grad():
        before, after = network(images), loaded.network(images)
    assert torch.equal(after.logits, before.logits)
    assert torch.equal(torch.cat(after.codes, 1), torch.cat(before.codes, 1))
    assert torch.equal(torch.cat(after.gate_logits, 1), torch.cat(before.gate_logits, 1))
    assert torch.equal(after.active_macs, before.active_macs)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "file").read_bytes()


def test_members_make_the_network() -> None:
    dense = build_backbone("digits-cnn", 10).eval()
    assert type(assemble(dense, EXAMPLE, (GATES,))) is GatedNetwork
    assert type(assemble(dense, EXAMPLE, (THREE,))) is ConsolidatedNetwork
    cascade = assemble(dense, EXAMPLE, (ONE, GATES))
    assert isinstance(cascade, Cascade)
    assert (type(cascade.first), type(cascade.second)) == (ConsolidatedNetwork, GatedNetwork)


@pytest.mark.parametrize("count", [0, 3])
def test_other_numbers_of_members_are_refused(count: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{count} members; a network has one, a cascade two"):
        assemble(build_backbone("digits-cnn", 10), EXAMPLE, (GATES,) * count)
