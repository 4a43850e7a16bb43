import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError, SurgeryError
from penstock.nn.backbones import build_backbone
from penstock.nn.class_masks import MaskedNetwork, Use, attach_class_masks

CLASSES = 5
EXAMPLE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(params=["chain", "residual"])
def dense(request: pytest.FixtureRequest) -> nn.Module:
    network: nn.Module = request.getfixturevalue(request.param)
    return network


@pytest.fixture
def masked(dense: nn.Module) -> MaskedNetwork:
    network = attach_class_masks(dense, EXAMPLE, CLASSES)
    network.scores = torch.randn(CLASSES, network.layout.bits, generator=torch.Generator().manual_seed(3))
    return network


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def test_with_all_masks_open_the_network_is_the_original(
    dense: nn.Module, masked: MaskedNetwork, images: Tensor
) -> None:
    with torch.no_grad():
        expected = dense(images)
        torch.testing.assert_close(masked(images), expected)
        masked.scores = torch.full_like(masked.scores, 0.1)
        torch.testing.assert_close(masked(images, torch.arange(6) % CLASSES, Use.HARD), expected)
        masked.scores = torch.full_like(masked.scores, 30.0)
        torch.testing.assert_close(masked(images, torch.arange(6) % CLASSES, Use.SOFT), expected)


def test_every_sample_runs_under_its_own_row(masked: MaskedNetwork, images: Tensor) -> None:
    rows = torch.tensor([4, 0, 2, 2, 1, 3])
    with torch.no_grad():
        for use in (Use.HARD, Use.SOFT):
            together = masked(images, rows, use)
            for place, row in enumerate(rows):
                alone = masked(images[place : place + 1], row[None], use)
                torch.testing.assert_close(together[place : place + 1], alone)


def test_a_closed_filter_is_zero_and_a_soft_one_is_scaled(masked: MaskedNetwork, images: Tensor) -> None:
    rows = torch.arange(6) % CLASSES
    with torch.no_grad():
        first = masked.activations(images)[0]
        hard = masked.activations(images, rows, Use.HARD)[0]
        soft = masked.activations(images, rows, Use.SOFT)[0]
    scores = masked.masks[0].scores[rows][:, :, None, None]
    torch.testing.assert_close(hard, first * (scores > 0))
    torch.testing.assert_close(soft, first * torch.sigmoid(scores))


def test_paths_are_the_signs_of_the_scores_in_the_layout(masked: MaskedNetwork) -> None:
    paths = masked.paths
    np.testing.assert_array_equal(paths.bits, (masked.scores > 0).numpy())
    assert [len(part[0]) for part in paths.layout.split(paths.bits)] == [
        mask.scores.shape[1] for mask in masked.masks
    ]


def test_everything_open_costs_what_the_dense_network_does(masked: MaskedNetwork) -> None:
    everything = np.ones((1, masked.layout.bits), dtype=np.uint8)
    assert masked.layout.active_macs(everything) == pytest.approx(1.0)


def test_nothing_but_scores_can_be_learned_and_training_mode_is_refused(
    masked: MaskedNetwork, images: Tensor
) -> None:
    before = {name: value.clone() for name, value in masked.state_dict().items() if "scores" not in name}
    masked.train()
    assert not any(module.training for module in masked.modules())
    masked(images, torch.arange(6) % CLASSES, Use.SOFT).sum().backward()
    trained = {name for name, value in masked.named_parameters() if value.grad is not None}
    assert len(trained) == len(masked.masks)
    assert all(name.endswith("scores") for name in trained)
    for name, value in before.items():
        assert torch.equal(masked.state_dict()[name], value), name


def test_activations_need_no_classifier(images: Tensor) -> None:
    torch.manual_seed(0)
    fixed = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 16 * 16, CLASSES),
    ).eval()  # fmt: skip
    masked = attach_class_masks(fixed, EXAMPLE, CLASSES)
    large = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert [tuple(each.shape) for each in masked.activations(large)] == [(1, 6, 32, 32)]
        assert masked(images).shape == (6, CLASSES)  # and afterwards whole runs are whole again


@pytest.mark.parametrize(
    ("backbone", "side"),
    [("resnet20", 32), ("vgg16", 32), ("densenet40", 32), ("mnasnet", 32), ("squeezenet1_1", 64)],
)
def test_networks_of_every_connection_can_be_masked(backbone: str, side: int) -> None:
    """Plain, residual, dense and searched ones, on mosaics twice as large as their images."""
    torch.manual_seed(0)
    dense = build_backbone(backbone, 3).eval()
    masked = attach_class_masks(dense, torch.zeros(1, 3, side, side), 3)
    images = torch.rand(2, 3, side, side)
    everything = np.ones((1, masked.layout.bits), dtype=np.uint8)
    assert masked.layout.active_macs(everything) == pytest.approx(1.0)
    masked.scores = torch.ones_like(masked.scores)
    with torch.no_grad():
        torch.testing.assert_close(masked(images, torch.tensor([2, 0])), dense(images), rtol=1e-4, atol=1e-5)
        maps = masked.activations(torch.rand(1, 3, 2 * side, 2 * side), torch.tensor([1]))
    assert [each.shape[1] for each in maps] == [layer.filters for layer in masked.layout.layers]


def test_what_cannot_be_masked_is_refused(chain: nn.Module) -> None:
    with pytest.raises(InvalidArgumentError, match="masks for 0 classes; at least 1"):
        attach_class_masks(chain, EXAMPLE, 0)
    with pytest.raises(SurgeryError):
        attach_class_masks(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)), EXAMPLE, 2)
    masked = attach_class_masks(chain, EXAMPLE, 2)
    with pytest.raises(InvalidArgumentError, match=r"scores have shape \(3, 22\); \[2, 22\] is needed"):
        masked.scores = torch.zeros(3, 22)
