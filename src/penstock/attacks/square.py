r"""Square: random search that sees scores only, so that no gate can mask anything from it.

After Andriushchenko, Croce, Flammarion and Hein, *Square Attack*, ECCV 2020 (https://arxiv.org/abs/1912.00049,
algorithms 1 and 2, maximum norm). An image starts with stripes of +-eps, a column and a channel each. Each query then
moves one square, at a place of its own, by +-2 eps per channel, cut to the bound; what lowers the margin

    Z(x')_t - max_{i != t} Z(x')_i

is kept. The squares' share of the image falls from ``LARGEST`` by halves as queries go by, on the paper's schedule.

The toolbox's form asks three times per query, of all images until the last is turned, and moves the same square in all.
Here every image has its own squares, is asked once per query, and leaves when it is turned; the next takes its place.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penstock.attacks.classifier import Images, Labels, LogitsOnly, lead

BATCH = 128
LARGEST = 0.8  # share of an image that the first squares take
# Shares of all queries after which the squares take half as much: the paper's iterations out of 10,000.
HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True, kw_only=True)
class Square:
    """Random squares that are kept where they help.

    Attributes:
        eps: largest change of a value.
        queries: answers that it may ask for, of each image.
        seed: of all random choices.
    """

    eps: float = 8 / 255
    queries: int = 1000
    seed: int = 0

    @torch.no_grad()
    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Attack images ``[N, C, H, W]`` in 0..1 with right classes ``[N]``; what is not turned has moved, too."""
        model = LogitsOnly(network).eval()
        draw = torch.Generator().manual_seed(self.seed)
        original, right = torch.from_numpy(images), torch.from_numpy(labels)
        best = original.clone()
        margin = torch.full((len(images),), torch.inf)
        asked = torch.zeros(len(images), dtype=torch.int64)
        working, waiting = torch.arange(0), torch.arange(len(images))
        while True:
            working = working[(margin[working] >= 0) & (asked[working] < self.queries)]
            free = BATCH - len(working)
            working, waiting = torch.cat([working, waiting[:free]]), waiting[free:]
            if not len(working):
                return best.numpy()
            own = original[working]
            moved = self._moved(best[working], asked[working], draw)
            moved = torch.minimum(torch.maximum(moved, own - self.eps), own + self.eps).clamp(0, 1)
            found = lead(model(moved), right[working])
            better = found < margin[working]
            best[working[better]], margin[working[better]] = moved[better], found[better]
            asked[working] += 1

    def _moved(self, x: Tensor, asked: Tensor, draw: torch.Generator) -> Tensor:
        """Images ``[n, C, H, W]`` with their next squares, those that were never asked about with stripes."""
        count, channels, height, width = x.shape
        shares = [LARGEST / 2 ** bisect_left(HALVED, each / self.queries) for each in asked.tolist()]
        side = torch.tensor([max(1, round((share * height * width) ** 0.5)) for share in shares])
        rows, columns = (_stretch(side, size, draw) for size in (height, width))
        square = (rows[:, :, None] & columns[:, None, :])[:, None]
        signs = _signs((count, channels, 1, 1), draw)
        stripes = self.eps * _signs((count, channels, 1, width), draw).expand_as(x)
        first = (asked == 0)[:, None, None, None]
        return x + torch.where(first, stripes, 2 * self.eps * signs * square)


def _stretch(side: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """``[n, size]``: ``side`` neighbours each, at a random place."""
    side = side.clamp_max(size)
    start = (torch.rand(len(side), generator=draw) * (size - side + 1)).long()
    places = torch.arange(size)
    return (places >= start[:, None]) & (places < (start + side)[:, None])


def _signs(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=draw).float() * 2 - 1
