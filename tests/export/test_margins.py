"""How far bits are from flipping: read off the answers that are compared, each member running once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from penstock.export.capture.contract import ServedModel
from penstock.export.verify.parity import reference
from penstock.nn.cascade import Cascade, confidence

Captured = Any  # of conftest
IMAGES = 60


@pytest.mark.parametrize("name", ["cascade", "backed"])
def test_margins_of_a_cascade_are_those_of_its_members(
    name: str, routed: Callable[[str], Captured], some_images: Callable[..., npt.NDArray[np.uint8]]
) -> None:
    images, network = some_images(IMAGES), routed(name).served.network
    assert isinstance(network, Cascade)
    far = reference(ServedModel(network, None), images).margins
    first, second = (
        reference(ServedModel(member, None), images).margins for member in (network.first, network.second)
    )
    with torch.inference_mode():
        sure = confidence(network.first(torch.from_numpy(images).float() / 255).logits)
    ran = (sure < network.threshold).numpy()
    assert 0 < ran.sum() < IMAGES
    place = network.first.layout.bits
    np.testing.assert_allclose(far[:, :place], first, atol=1e-5)
    np.testing.assert_allclose(far[:, place], (sure - network.threshold).abs().numpy(), atol=1e-5)
    np.testing.assert_allclose(far[ran, place + 1 :], second[ran], atol=1e-5)
    assert np.isposinf(far[~ran, place + 1 :]).all()
    assert np.isfinite(far[:, : place + 1]).any()


def test_every_image_goes_through_a_member_once_at_most(
    routed: Callable[[str], Captured], some_images: Callable[..., npt.NDArray[np.uint8]]
) -> None:
    images, network = some_images(IMAGES), routed("cascade").served.network
    ran: Counter[str] = Counter()
    members = {"first": network.first, "second": network.second}
    handles = [
        member.register_forward_pre_hook(lambda _, inputs, name=name: ran.update({name: len(inputs[0])}))
        for name, member in members.items()
    ]
    expected = reference(ServedModel(network, None), images, batch=25)
    for handle in handles:
        handle.remove()
    needed = int(expected.answer.path[:, network.first.layout.bits].sum())
    assert ran == {"first": IMAGES, "second": needed}
    assert not any(module._forward_hooks for module in network.modules())


def test_margins_are_infinite_where_a_second_member_never_runs(
    routed: Callable[[str], Captured], some_images: Callable[..., npt.NDArray[np.uint8]]
) -> None:
    never = routed("cascade").with_threshold(-1.0).served.network
    far = reference(ServedModel(never, None), some_images(5)).margins
    assert far.shape == (5, never.layout.bits)
    assert np.isposinf(far[:, never.first.layout.bits + 1 :]).all()
