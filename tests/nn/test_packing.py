"""What is packed comes back bit by bit, in less room where there is something to leave out."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penstock.nn.packing import pack, unpack


def there_and_back(tensor: Tensor) -> tuple[Tensor, Tensor]:
    packed, form = pack(tensor)
    return packed, unpack(packed, json.loads(json.dumps(form)))


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.float16]),
)
def test_any_weight_comes_back(
    seed: int, filters: float, channels: float, half: bool, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(24, 12, 3, 3, generator=draw)
    weight[torch.rand(24, generator=draw) > filters] = 0
    weight[:, torch.rand(12, generator=draw) > channels] = 0
    weight = (weight.half() if half else weight).to(dtype)
    _, back = there_and_back(weight)
    assert back.dtype == dtype
    assert torch.equal(back, weight)


def test_room_is_taken_by_what_is_there() -> None:
    weight = torch.randn(64, 32, 3, 3)
    weight[10:] = 0
    weight[:, ::2] = 0
    packed, _ = pack(weight)
    assert packed.shape == (10, 16, 3, 3)
    packed, _ = pack(weight.half().float())
    assert packed.nbytes == 10 * 16 * 9 * 2


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(40, 40),
        torch.randn(1000, 1, 3, 3)[
            :, :, 1:2, 1:2
        ],  # of one size and odd strides, as depthwise kernels can be
        torch.randn(1, 1000, 1, 1).transpose(0, 1),
        torch.ones(40, 40, dtype=torch.bool),
        torch.zeros(2000, 0),
        torch.zeros(3),
        torch.zeros(0, 4),
        torch.tensor(7),
        torch.arange(1000),
        torch.full((1000,), 70000.0),  # no number in half precision
        torch.full((20, 20), 1e-9),  # nought there
        torch.full((20, 20), float("inf")),
    ],
)
def test_odd_tensors_come_back(tensor: Tensor) -> None:
    _, back = there_and_back(tensor)
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


def test_minus_zero_and_what_is_no_number_come_back_bit_by_bit() -> None:
    odd = torch.randn(20, 20)
    odd[3] = -0.0
    odd[4, 4] = float("nan")
    _, back = there_and_back(odd)
    assert torch.equal(back.view(torch.int32), odd.view(torch.int32))
