"""Tensors come back from their file bit by bit, and what is there twice is written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from penstock.errors import BundleError
from penstock.nn.tensor_file import read_tensors, write_tensors


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return read_tensors(
        path, 1, lambda about, tensors: (about, tensors), what="a test file", remedy="write again"
    )


def test_repeated_tensors_are_written_once_and_come_back_as_tensors_of_their_own(tmp_path: Path) -> None:
    weight = torch.randn(100, 100)
    tensors = {
        "a.weight": weight,
        "b.weight": weight.clone(),
        "flat": weight.flatten().clone(),  # the same bytes in another shape
        "whole": weight.view(torch.int32).clone(),  # and of another type
        "turned": weight.T,
        "half": weight.half(),
        "small": torch.zeros(3),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "also.small": torch.zeros(3),
    }
    write_tensors(tmp_path / "twice", {"schema": 1, "what": "x"}, tensors)
    about, found = read(tmp_path / "twice")
    assert about == {"schema": 1, "what": "x"}
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    write_tensors(
        tmp_path / "once",
        {"schema": 1},
        {name: value for name, value in tensors.items() if name != "b.weight"},
    )
    sizes = [(tmp_path / name).stat().st_size for name in ("once", "twice")]
    assert sizes[1] - sizes[0] < 200
    found["a.weight"].zero_()
    assert torch.equal(found["b.weight"], weight)


def test_another_schema_and_another_file_are_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "new", {"schema": 2}, {"x": torch.zeros(1)})
    with pytest.raises(BundleError, match="schema 2; this version reads 1: write again"):
        read(tmp_path / "new")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(BundleError, match="is not a test file"):
        read(tmp_path / "text")
