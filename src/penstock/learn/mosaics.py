"""Path hit rate: does a class's path look at that class's object?

The experiment is the release's (cam_2x2.py): a mosaic of four images of four classes goes through the network under the
path of each of the four. At every layer the class activation map is the plain sum of the channels' outputs, and the
hit rate is the share of its highest ``mask_rate`` of the pixels that lies in the quadrant of the path's class. Chance
is 25 %, and exactly so where the path does not matter: the four quadrants' shares add up to one, so the mean over the
four classes of a mosaic is 25 % for one and the same map.

Differences from the release:

- It shrinks the mosaic to the size of one image; here the tiles keep their size and the mosaic is twice as large, so
  that objects are as large as those that the network was trained on. The layers after the last masked one are not run:
  a map needs no logits, and so a classifier for images of one size, as VGG's, is no hindrance.
- Where no ReLU follows directly, as on a residual branch before its add, channels would cancel in the sum: the
  positive part is summed.
- Pixels at the threshold count by share. A map without any contrast thus hits a quarter and not the first quadrant.
- ``mask_rate`` is what was asked for; there it is 0.1 whatever is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.data import ImageSet
from penstock.errors import InvalidArgumentError
from penstock.nn.class_masks import MaskedNetwork, Use

TILES = 4
LAST_LAYERS = 3  # whose mean the release prints


@dataclass(frozen=True, kw_only=True)
class HitFigures:
    """Path hit rates at one mask rate; chance is 0.25.

    Attributes:
        mask_rate: share of the pixels that count.
        mosaics: how many.
        mean: for each layer, over mosaics and their four classes.
        deviation: for each layer, standard deviation over mosaics and classes.
        error: for each layer, standard error of the mean; a mosaic counts as one draw.
        last: mean over the last three layers.
        open_mean: for each layer with all masks open, the control: a quarter but for rounding.
        open_deviation: standard deviation of the control.
    """

    mask_rate: float
    mosaics: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    error: tuple[float, ...]
    last: float
    open_mean: tuple[float, ...]
    open_deviation: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Four images in a square.

    Attributes:
        image: ``[C, 2 H, 2 W]`` uint8.
        labels: classes of the tiles: upper left, upper right, lower left, lower right.
    """

    image: npt.NDArray[np.uint8]
    labels: tuple[int, ...]


def draw_mosaics(images: ImageSet, count: int, seed: int = 0) -> Iterator[Mosaic]:
    """Random mosaics, each of four different classes.

    Raises:
        InvalidArgumentError: fewer than four classes have images.
    """
    draw = np.random.default_rng(seed)
    present = np.unique(images.labels)
    if len(present) < TILES:
        raise InvalidArgumentError(f"{len(present)} classes have images; a mosaic needs {TILES}")
    for _ in range(count):
        labels = draw.choice(present, TILES, replace=False)
        tiles = [images.images[draw.choice(np.flatnonzero(images.labels == label))] for label in labels]
        rows = [np.concatenate(tiles[:2], axis=2), np.concatenate(tiles[2:], axis=2)]
        yield Mosaic(np.concatenate(rows, axis=1), tuple(int(label) for label in labels))


def measure_hits(
    network: MaskedNetwork, images: ImageSet, count: int, mask_rates: Sequence[float], seed: int = 0
) -> tuple[HitFigures, ...]:
    """Path hit rates over ``count`` mosaics, one set of figures for each mask rate."""
    under: list[npt.NDArray[np.float64]] = []  # [4 classes, rates, layers] each
    whole: list[npt.NDArray[np.float64]] = []
    for mosaic in draw_mosaics(images, count, seed):
        under.append(_hits(maps(network, mosaic, Use.HARD), mask_rates))
        whole.append(
            _hits([each.expand(TILES, -1, -1) for each in maps(network, mosaic, Use.OPEN)], mask_rates)
        )
    found, control = np.stack(under), np.stack(whole)  # [mosaics, 4, rates, layers]
    error = found.mean(axis=1).std(axis=0, ddof=min(1, count - 1)) / np.sqrt(count)  # [rates, layers]
    return tuple(
        HitFigures(
            mask_rate=rate,
            mosaics=count,
            mean=_plain(found[:, :, at].mean(axis=(0, 1))),
            deviation=_plain(found[:, :, at].std(axis=(0, 1))),
            error=_plain(error[at]),
            last=float(found[:, :, at, -LAST_LAYERS:].mean()),
            open_mean=_plain(control[:, :, at].mean(axis=(0, 1))),
            open_deviation=_plain(control[:, :, at].std(axis=(0, 1))),
        )
        for at, rate in enumerate(mask_rates)
    )


@torch.no_grad()
def maps(network: MaskedNetwork, mosaic: Mosaic, use: Use) -> list[Tensor]:
    """Class activation maps at every masked layer, as large as the mosaic.

    Returns:
        for each layer ``[4, 2 H, 2 W]``, one map for each tile's class; ``[1, 2 H, 2 W]`` with everything open.
    """
    device = network.masks[0].scores.device
    rows = torch.tensor(mosaic.labels if use is not Use.OPEN else mosaic.labels[:1], device=device)
    image = torch.from_numpy(mosaic.image)[None].float().div(255).to(device)
    layers = network.activations(image.expand(len(rows), -1, -1, -1), rows, use)
    size = list(mosaic.image.shape[1:])
    return [
        F.interpolate(
            layer.float().relu().sum(1, keepdim=True), size=size, mode="bicubic", align_corners=False
        )[:, 0]
        for layer in layers
    ]


def hit_rate(activation: Tensor, tile: int, mask_rate: float) -> float:
    """Share of the highest pixels that lie in one quadrant.

    Args:
        activation: ``[2 H, 2 W]``.
        tile: 0 to 3, as in `Mosaic.labels`.
        mask_rate: share of all pixels that count; pixels that tie at the threshold share the places that are left.
    """
    height, width = (side // 2 for side in activation.shape)
    row, column = divmod(tile, 2)
    inside = torch.zeros_like(activation, dtype=torch.bool)
    inside[row * height : (row + 1) * height, column * width : (column + 1) * width] = True
    wanted = max(1, round(mask_rate * activation.numel()))
    threshold = activation.flatten().kthvalue(activation.numel() - wanted + 1).values
    above, tied = activation > threshold, activation == threshold
    left = wanted - int(above.sum())
    hits = int((above & inside).sum()) + left * int((tied & inside).sum()) / int(tied.sum())
    return hits / wanted


def _hits(layers: Sequence[Tensor], mask_rates: Sequence[float]) -> npt.NDArray[np.float64]:
    """``[4, rates, layers]``."""
    return np.array(
        [
            [[hit_rate(layer[tile], tile, rate) for layer in layers] for rate in mask_rates]
            for tile in range(TILES)
        ]
    )


def _plain(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
