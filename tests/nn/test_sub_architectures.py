from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from penstock.errors import BundleError, NotFoundError
from penstock.nn.backbones import build_backbone
from penstock.nn.class_masks import Use, attach_class_masks
from penstock.nn.sub_architectures import SubArchitectures, load_sub_architectures


@pytest.fixture(scope="module")
def result() -> SubArchitectures:
    torch.manual_seed(0)
    dense = build_backbone("digits-cnn", 10).eval()
    masked = attach_class_masks(dense, torch.zeros(1, 1, 8, 8), 10)
    return SubArchitectures(
        backbone="digits-cnn",
        class_names=tuple("0123456789"),
        input_shape=(1, 8, 8),
        dense=dense,
        layout=masked.layout,
        scores=torch.randn(10, masked.layout.bits),
        config={"seed": 3},
        figures={"similarity": 0.5},
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(4, 1, 8, 8)


def test_what_was_saved_is_what_is_loaded(result: SubArchitectures, images: Tensor, tmp_path: Path) -> None:
    result.save(tmp_path / "result.safetensors")
    again = load_sub_architectures(tmp_path / "result.safetensors")
    assert again.paths.layout == result.paths.layout
    np.testing.assert_array_equal(again.paths.bits, result.paths.bits)
    assert torch.equal(again.scores, result.scores)
    assert (again.backbone, again.class_names, again.input_shape) == (
        "digits-cnn",
        tuple("0123456789"),
        (1, 8, 8),
    )
    assert (again.config, again.figures) == ({"seed": 3}, {"similarity": 0.5})
    rows = torch.arange(4)
    with torch.no_grad():
        assert torch.equal(again.dense(images), result.dense(images))
        assert torch.equal(again.network()(images, rows, Use.HARD), result.network()(images, rows, Use.HARD))


def test_paths_under_the_network_are_those_of_the_result(result: SubArchitectures) -> None:
    np.testing.assert_array_equal(result.network().paths.bits, result.paths.bits)
    assert result.paths.bits.shape == (10, result.layout.bits)


def test_what_is_no_result_is_refused(result: SubArchitectures, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no sub-architectures at"):
        load_sub_architectures(tmp_path / "nothing.safetensors")
    file = tmp_path / "half.safetensors"
    result.save(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BundleError, match="is not a file of sub-architectures"):
        load_sub_architectures(file)
