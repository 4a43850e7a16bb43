"""The same files in OpenVINO, at its f32 precision: the answers of ONNX Runtime, with all lowerings that it can run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from penstock.bundle import INPUT, OUTPUTS
from penstock.errors import UnsupportedError
from penstock.export.autotune.engines import load
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.passes.finish import finish
from penstock.export.runtime import open_graph
from penstock.manifest import FP32

openvino = pytest.importorskip("openvino")

Images = npt.NDArray[np.uint8]
Named = Callable[[str], Any]
ToBytes = Callable[[ir.Model], bytes]

LOWERINGS: dict[str, Callable[[], Lowering]] = {
    "masked": Masked,
    "grouped": Routed,
    "single": lambda: Routed(single=True),
}


def in_openvino(content: bytes, images: Images) -> dict[str, npt.NDArray[Any]]:
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(content),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1},
    )
    floats = images.astype(np.float32) / 255
    compiled(
        {INPUT: floats}
    )  # see docs/export.md: the first run of a cascade with a free batch can be garbage
    answers = compiled({INPUT: floats})
    return {name: answers[name] for name in OUTPUTS}


@pytest.mark.parametrize(
    ("network", "lowering"),
    [*itertools.product(["residual", "cascade"], LOWERINGS), ("inverted", "grouped"), ("static", "grouped")],
)
def test_openvino_answers_as_onnx_runtime(
    network: str, lowering: str, routed: Named, some_images: Callable[..., Images], to_bytes: ToBytes
) -> None:
    made = LOWERINGS[lowering]()
    model = routed(network).model.clone()
    made.lower(model)
    content = to_bytes(finish(model, FP32))
    images = some_images(9, seed=4)
    wanted = open_graph(content, single=made.single, threads=1).run(images)
    parts = np.split(images, len(images)) if made.single else [images, images[:1]]
    got = [in_openvino(content, part) for part in parts]
    start = 0
    for part, answer in zip(parts, got, strict=True):
        start %= len(images)
        for name in OUTPUTS:
            expected = wanted[name][start : start + len(part)]
            if expected.dtype == np.float32:
                np.testing.assert_allclose(answer[name], expected, atol=1e-4, rtol=1e-4, err_msg=name)
            else:
                np.testing.assert_array_equal(answer[name], expected, err_msg=name)
        start += len(part)


def test_a_gated_network_runs_masked_in_openvino(
    captured: dict[str, Any], some_images: Callable[..., Images], to_bytes: ToBytes
) -> None:
    model = captured["residual"].model.clone()
    Masked().lower(model)
    content, images = to_bytes(finish(model, FP32)), some_images(9, seed=4)
    wanted = open_graph(content, single=False, threads=1).run(images)
    got = in_openvino(content, images)
    np.testing.assert_array_equal(got["path"], wanted["path"])
    np.testing.assert_allclose(got["logits"], wanted["logits"], atol=1e-4)


def test_what_openvino_cannot_read_is_said_so() -> None:
    with pytest.raises(UnsupportedError, match="OpenVINO cannot run this graph"):
        load(b"no model", "openvino", single=False, threads=1)
