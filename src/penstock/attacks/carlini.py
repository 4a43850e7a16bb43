r"""Carlini and Wagner's attack in L2, for many images at once (2017, https://arxiv.org/abs/1608.04644, section VI-A).

For an image x with right class t, logits Z and a weight c of its own, Adam minimises over w

    |x' - x|^2 + c max(Z(x')_t - max_{i != t} Z(x')_i + confidence, 0),        x' = (tanh(w) + 1) / 2

and c is found by bisection: smaller after a success, larger after a failure. The nearest x' that is misread is kept.

The toolbox's form takes seconds per image, because it halves and doubles step sizes image by image. Here every image of
a batch has its own weight and stops on its own, once its loss does not fall any more; and each search but the first
starts from the nearest success so far. The settings are far below the paper's (9 searches of 10,000 steps): what more
of them win is a smaller change, not more success.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.attacks.classifier import Images, Labels, LogitsOnly, lead, warn_of_masked_gradients

BATCH = 128
INSIDE = 0.999999  # of the way from grey to black or white: tanh has no inverse at its ends
LARGEST = 1e10  # a weight that no image needs
LOOKS = 5  # times within a search that progress is looked at
PROGRESS = 0.99  # of the loss at the last look: what falls less has arrived


@dataclass(frozen=True, kw_only=True)
class CarliniL2:
    """Adam on size of the change plus a margin loss, its weight found by bisection.

    Attributes:
        confidence: margin by which the wrong class must lead.
        searches: steps of the bisection.
        steps: of Adam in each, at most.
        rate: learning rate.
        weight: c to begin with.
    """

    confidence: float = 0.0
    searches: int = 4
    steps: int = 100
    rate: float = 0.01
    weight: float = 1.0

    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Attack images ``[N, C, H, W]`` in 0..1 with right classes ``[N]``; what cannot be turned is left as it was.

        Warns:
            MaskedGradientsWarning: gates let no gradient through.
        """
        warn_of_masked_gradients(network, images)
        model = LogitsOnly(network).eval()
        pieces = []
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            search = _Search(self, model, torch.from_numpy(images[part]), torch.from_numpy(labels[part]))
            pieces.append(search.run().numpy())
        attacked: Images = np.concatenate(pieces)
        return attacked


class _Search:
    """The bisection of one batch."""

    def __init__(self, attack: CarliniL2, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.attack = attack
        self.model = model
        self.images = images
        self.labels = labels
        self.best = images.clone()
        self.size = torch.full((len(images),), torch.inf)  # squared, of the nearest success

    def run(self) -> Tensor:
        """The nearest successes ``[N, C, H, W]``."""
        count = len(self.images)
        weight = torch.full((count,), self.attack.weight)
        low, high = torch.zeros(count), torch.full((count,), LARGEST)
        for _ in range(self.attack.searches):
            turned = self._descend(weight)
            high = torch.where(turned, torch.minimum(high, weight), high)
            low = torch.where(turned, low, torch.maximum(low, weight))
            weight = torch.where(high < LARGEST, (low + high) / 2, weight * 10)
        return self.best

    def _descend(self, weight: Tensor) -> Tensor:
        """Adam with weights ``[N]``; gives for which images these suffice, ``[N]``.

        A search that starts from a success says nothing of its weight by that: one that is too small lets the image go
        back until it is read right. So what counts is whether it was still misread since progress was last looked at.
        """
        turned = torch.zeros(len(self.images), dtype=torch.bool)
        rows = torch.arange(len(self.images))
        w = torch.atanh((self.best * 2 - 1) * INSIDE).requires_grad_()
        optimizer = torch.optim.Adam([w], lr=self.attack.rate)
        looked = torch.full((len(rows),), torch.inf)
        every = max(1, self.attack.steps // LOOKS)
        for step in range(self.attack.steps + 1):
            x = (torch.tanh(w) + 1) / 2
            size = ((x - self.images[rows]) ** 2).sum(dim=(1, 2, 3))
            margin = self._lead(x, rows)
            misread = self._keep(x.detach(), size.detach(), margin.detach(), rows)
            turned[rows] |= misread & (step > 0)
            if step == self.attack.steps:
                break
            loss = size + weight[rows] * F.relu(margin + self.attack.confidence)
            if step and step % every == 0:
                going = loss.detach() < PROGRESS * looked
                if not going.any():
                    break
                looked = loss.detach()[going]
                turned[rows[going]] = False
                if not going.all():
                    rows = rows[going]
                    w, optimizer = self._fewer(w, optimizer, going)
                    continue
            elif step == 0:
                looked = loss.detach()
            optimizer.zero_grad()
            (w.grad,) = torch.autograd.grad(loss.sum(), w)
            optimizer.step()
        return turned

    def _lead(self, x: Tensor, rows: Tensor) -> Tensor:
        """``[n]``: how far the right class leads the best wrong one."""
        return lead(self.model(x), self.labels[rows])

    def _keep(self, x: Tensor, size: Tensor, margin: Tensor, rows: Tensor) -> Tensor:
        """Remember what is turned and nearer than before; gives what is turned."""
        turned = margin < -self.attack.confidence
        nearer = turned & (size < self.size[rows])
        self.best[rows[nearer]], self.size[rows[nearer]] = x[nearer], size[nearer]
        return turned

    def _fewer(
        self, w: Tensor, optimizer: torch.optim.Adam, going: Tensor
    ) -> tuple[Tensor, torch.optim.Adam]:
        """The same descent with the images that still go on."""
        kept = w.detach()[going].requires_grad_()
        fewer = torch.optim.Adam([kept], lr=self.attack.rate)
        old = optimizer.state[w]
        fewer.state[kept] = {
            name: value[going] if value.shape == w.shape else value for name, value in old.items()
        }
        return kept, fewer
