"""What goes into the zoo says how it was made, and its figures are its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from zoo_entry import commands, rounded
from zoo_figures import measured

from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint


def test_the_commands_of_all_that_a_run_needed_are_told_in_order() -> None:
    first, second, third = commands("resnet20-seed2-cascade")
    assert first.startswith("penstock decouple ")
    assert first.endswith(" --out runs/resnet20-seed2")
    assert second.startswith("penstock consolidate runs/resnet20-seed2 ")
    assert (
        third == "penstock cascade runs/resnet20-seed2-k1-20 --budget 0.495 --out runs/resnet20-seed2-cascade"
    )


def test_rounded_weights_take_half_the_room_and_are_measured_anew(tiny_run: Path, tmp_path: Path) -> None:
    whole = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    before = [value.detach().clone() for value in whole.dense.parameters()]
    half = rounded(whole)
    after = list(half.dense.parameters())
    assert all(
        torch.equal(new, old.half().float() if old.ndim > 1 else old)
        for new, old in zip(after, before, strict=True)
    )
    assert not all(torch.equal(new, old) for new, old in zip(after, before, strict=True))
    half.save(tmp_path / "half")
    assert (tmp_path / "half").stat().st_size < 0.8 * (tiny_run / CHECKPOINT_FILE).stat().st_size
    again = load_checkpoint(tmp_path / "half")
    assert again.figures == half.figures
    images = torch.rand(8, *again.input_shape)
    with torch.no_grad():
        assert torch.equal(again.network(images).logits, half.network(images).logits)


def test_figures_that_are_measured_anew_are_those_of_a_finished_run(tiny_run: Path) -> None:
    whole = load_checkpoint(tiny_run / CHECKPOINT_FILE)
    stale = replace(whole, figures=dict(whole.figures) | {"images": 997, "decoupled_accuracy": 0.5})
    assert measured(stale).figures == whole.figures
