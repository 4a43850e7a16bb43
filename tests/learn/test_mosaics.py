import numpy as np
import pytest
import torch
from torch import nn

from penstock.data import ImageSet
from penstock.errors import InvalidArgumentError
from penstock.learn.mosaics import Mosaic, draw_mosaics, hit_rate, maps, measure_hits
from penstock.nn.class_masks import MaskedNetwork, Use, attach_class_masks

COLOURS = 4


@pytest.fixture(scope="module")
def coloured() -> ImageSet:
    """Class ``c`` is bright in channel ``c`` and black elsewhere."""
    labels = np.repeat(np.arange(COLOURS), 3)
    images = np.zeros((len(labels), COLOURS, 8, 8), dtype=np.uint8)
    images[np.arange(len(labels)), labels, 2:6, 2:6] = 200
    names = tuple("abcd")
    return ImageSet(images, labels.astype(np.int64), names, np.arange(len(labels)))


@pytest.fixture
def network() -> MaskedNetwork:
    """Every layer hands the channels on as they are, so a class's own channel sees its object and nothing else."""
    layers: list[nn.Module] = []
    for _ in range(3):
        conv = nn.Conv2d(COLOURS, COLOURS, 1, bias=False)
        nn.init.eye_(conv.weight.data[:, :, 0, 0])
        layers += [conv, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(COLOURS * 64, COLOURS)).eval()
    return attach_class_masks(model, torch.zeros(1, COLOURS, 8, 8), COLOURS)


def test_paths_of_the_right_channel_always_hit_and_of_another_never(
    network: MaskedNetwork, coloured: ImageSet
) -> None:
    own = torch.eye(COLOURS).repeat(1, 2) - 0.5
    network.scores = own
    (figures,) = measure_hits(network, coloured, 5, [0.05])
    assert figures.mean == (1.0, 1.0)
    assert figures.deviation == (0.0, 0.0)
    assert figures.last == 1.0
    assert figures.open_mean == pytest.approx((0.25, 0.25))
    network.scores = own.roll(
        1, dims=0
    )  # every path has the channel of a class that is elsewhere in the mosaic
    (figures,) = measure_hits(network, coloured, 5, [0.05])
    assert figures.mean == (0.0, 0.0)


def test_one_map_for_all_classes_hits_a_quarter_whatever_it_shows(
    network: MaskedNetwork, coloured: ImageSet
) -> None:
    network.scores = torch.tensor([[1.0, -1.0, -1.0, 1.0] * 2] * COLOURS)
    figures = measure_hits(network, coloured, 6, [0.05, 0.1, 0.9])
    assert [each.mask_rate for each in figures] == [0.05, 0.1, 0.9]
    for each in figures:
        assert each.mean == pytest.approx((0.25, 0.25))
        assert each.error == pytest.approx((0.0, 0.0), abs=1e-12)


def test_a_mosaic_holds_images_of_four_classes_in_their_places(coloured: ImageSet) -> None:
    mosaics = list(draw_mosaics(coloured, 10, seed=1))
    assert len({mosaic.labels for mosaic in mosaics}) > 3
    for mosaic in mosaics:
        assert sorted(mosaic.labels) == list(range(COLOURS))
        assert mosaic.image.shape == (COLOURS, 16, 16)
        for tile, label in enumerate(mosaic.labels):
            row, column = divmod(tile, 2)
            part = mosaic.image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            assert part.max(axis=(1, 2)).argmax() == label
    again = list(draw_mosaics(coloured, 10, seed=1))
    assert [mosaic.labels for mosaic in again] == [mosaic.labels for mosaic in mosaics]


def test_maps_are_as_large_as_the_mosaic_and_one_for_each_class(network: MaskedNetwork) -> None:
    mosaic = Mosaic(np.full((COLOURS, 16, 16), 100, dtype=np.uint8), (2, 0, 3, 1))
    assert [each.shape for each in maps(network, mosaic, Use.HARD)] == [(4, 16, 16)] * 2
    assert [each.shape for each in maps(network, mosaic, Use.OPEN)] == [(1, 16, 16)] * 2


@pytest.mark.parametrize(
    ("tile", "expected"),
    [(0, 0.0), (1, 0.75), (2, 0.0), (3, 0.25)],
)
def test_hit_rate_counts_the_highest_pixels(tile: int, expected: float) -> None:
    activation = torch.zeros(4, 10)
    activation[0, 5:8] = 2.0  # upper right
    activation[3, 9] = 1.0  # lower right
    assert hit_rate(activation, tile, 0.1) == expected


def test_pixels_at_the_threshold_count_by_share() -> None:
    activation = torch.zeros(4, 4)
    assert [hit_rate(activation, tile, 0.25) for tile in range(4)] == [0.25] * 4
    activation[:2, :2] = 1.0  # four of the six wanted; the other two are shared by twelve
    rates = [hit_rate(activation, tile, 6 / 16) for tile in range(4)]
    assert rates == pytest.approx([4 / 6, 1 / 9, 1 / 9, 1 / 9])


def test_too_few_classes_are_refused(coloured: ImageSet) -> None:
    with pytest.raises(InvalidArgumentError, match="3 classes have images; a mosaic needs 4"):
        next(draw_mosaics(coloured.take(coloured.labels > 0), 1))
