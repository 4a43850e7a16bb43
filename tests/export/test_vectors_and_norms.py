"""What stands between convolutions and classifier and is not told by its operator alone, in every form of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.routed import Routed
from penstock.export.runtime import open_graph
from penstock.export.verify.parity import reference, verify

FORMS: dict[str, Lowering] = {
    "gathered": Gathered(),
    "routed": Routed(),
    "routed, one image": Routed(single=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", ["centred", "group norms"])
def test_networks_of_vectors_and_norms_answer_as_in_pytorch(
    network: str,
    form: str,
    gated: Callable[[str], Any],
    routed: Callable[[str], Any],
    some_images: Callable[..., npt.NDArray[np.uint8]],
    to_bytes: Callable[[ir.Model], bytes],
) -> None:
    lowering, images = FORMS[form], some_images(12)
    each = (gated if form == "gathered" else routed)(network)
    content = to_bytes(each.lowered(lowering))
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    got = open_graph(content, single=lowering.single, threads=1).run(images)
    assert verify(reference(each.served, images), got, each.served.network.layout).images_flipped == 0
