"""Attacks that know the detector: an image is won when it is misread *and* scores no more than the threshold.

All move within ``eps`` in the maximum norm by signed steps, from several starts, and keep of each image the best that
they met: misread before read right, then the lowest score. What is won is left alone, just under the threshold: of
these attacks the evasion at that threshold counts, and areas under curves say little.

- ``joint``: a margin loss against the classifier plus the score's excess over the threshold
- ``orthogonal``: a step against the classifier while the image is read right, else against the detector, in the first
  start each freed of its part along the other's gradient (Bryniarski et al., *Evading Adversarial Example Detection
  Defenses with Orthogonal Projected Gradient Descent*, 2021, https://arxiv.org/abs/2106.15023), in the next as they
  are, which is the default of its release, and so on in turn: where a score doubts answers, both gradients lie along
  one line near the border, and of one without the other only rounding is left
- ``matching``: what the detector sees of an honest image of another class, and its answer, are imitated: of the nearest
  such image in the first start, of another one in each that follows

Where a loss has two parts, the detector's has a weight, which each start of an image chooses anew: ten times as much
where the image has been misread and flagged, a tenth where it has always been read right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.attacks.classifier import Images, Labels, lead, warn_of_masked_gradients
from penstock.errors import InvalidArgumentError
from penstock.nn.path_network import GatedOutput, PathNetwork

BATCH = 128
METHODS = ("joint", "orthogonal", "matching")
MARGIN = 0.05  # how far under the threshold to go: numpy and graphs differ in the last digits
READ_RIGHT = 1e6  # from this rank on, no step has turned an image
REWEIGHED = 10.0  # by which the detector's weight grows or shrinks from start to start


class Detector(Protocol):
    """What an attacker knows of a detector, differentiable."""

    def __call__(self, output: GatedOutput) -> Tensor:
        """Scores ``[N]``."""

    def seen(self, output: GatedOutput) -> Tensor:
        """``[N, F]``: what it looks at."""


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """An attack on classifier and detector together.

    Attributes:
        method: one of `METHODS`.
        eps: largest change of a value, where images run from 0 to 1.
        steps: per start.
        restarts: number of starts, the first at the image itself.
        weight: of the detector in ``joint``, of what it sees in ``matching``, at the first start.
        seed: of the starts.
    """

    method: str = "joint"
    eps: float = 8 / 255
    steps: int = 1000
    restarts: int = 2
    weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidArgumentError(f"no adaptive attack {self.method!r}; there are {', '.join(METHODS)}")
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def __call__(
        self,
        network: PathNetwork,
        score: Detector,
        threshold: float,
        images: Images,
        labels: Labels,
        guides: Images | None = None,
    ) -> Images:
        """Attack ``images`` ``[N, C, H, W]`` in 0..1 with right classes ``labels`` ``[N]``.

        Args:
            network: in evaluation mode.
            score: of a `GatedOutput`.
            threshold: scores above it are flagged.
            images: what is attacked.
            labels: their classes.
            guides: for ``matching``: honest images ``[M, C, H, W]``, answered with more than one class.

        Raises:
            InvalidArgumentError: there are no guides to imitate.

        Warns:
            MaskedGradientsWarning: a layer that decides lets no gradient through.
        """
        if self.method == "matching" and guides is None:
            raise InvalidArgumentError("matching needs guides: honest images of other classes")
        known = None
        if self.method == "matching" and guides is not None:
            known = _Guides.of(network, score, guides, images, torch.from_numpy(labels))
        warn_of_masked_gradients(network, images)
        weight = torch.full((len(images),), self.weight)
        freed = torch.ones(len(images), dtype=torch.bool)
        victim = _Victim(network, score, threshold - MARGIN, torch.from_numpy(labels), weight, freed)
        attacked: npt.NDArray[np.float32] = self._attack(victim, torch.from_numpy(images), known).numpy()
        return attacked

    def _attack(self, victim: _Victim, images: Tensor, known: _Guides | None) -> Tensor:
        """Every image goes through its starts; the place of one that is won or at its end is the next one's."""
        direction = {"joint": self._joint, "orthogonal": _orthogonal, "matching": self._matching}[self.method]
        best, rank = images.clone(), torch.full((len(images),), torch.inf)
        tries = _Tries(self, images, known)
        for rows in tries.rounds(rank):
            one = victim.take(rows, tries, known)
            moved = tries.x[rows].requires_grad_()
            output = one.network(moved)
            scores = one.score(output)
            worth = one.rank(output, scores)
            better = worth < rank[rows]  # a score that is no number wins nothing
            best[rows[better]], rank[rows[better]] = moved.detach()[better], worth[better]
            if (rank[rows] > 0).any():
                tries.move(rows, direction(one, moved, output, scores))
        return best

    def _joint(self, victim: _Victim, x: Tensor, output: GatedOutput, scores: Tensor) -> Tensor:
        margin = F.relu(victim.lead(output) + 0.5)
        excess = F.relu(scores - victim.threshold)
        return _gradient((margin + victim.weight * excess).sum(), x)

    def _matching(self, victim: _Victim, x: Tensor, output: GatedOutput, scores: Tensor) -> Tensor:
        assert victim.guide is not None
        wanted, label = victim.guide
        apart = ((victim.score.seen(output) - wanted) ** 2).mean(1)
        read = F.cross_entropy(output.logits, label, reduction="none")
        return _gradient((read + victim.weight * apart).sum(), x)


class _Tries:
    """Where each image stands: which start it is at, how many steps from it, and how the detector weighs there."""

    def __init__(self, attack: Adaptive, images: Tensor, guides: _Guides | None) -> None:
        self.attack = attack
        self.images = images
        self.x = images.clone()
        self.step = torch.full((len(images),), -1)  # none looked at yet
        self.start = torch.zeros(len(images), dtype=torch.int64)
        self.weight = torch.full((len(images),), attack.weight)
        self._guides = guides
        self._draws = torch.Generator().manual_seed(attack.seed)

    def rounds(self, rank: Tensor) -> Iterator[Tensor]:
        """Which images to look at next, `BATCH` as long as there are so many that ``rank`` says are not won."""
        working, waiting = torch.arange(0), torch.arange(len(self.images))
        while True:
            over = working[self.step[working] > self.attack.steps]
            self.start[over] += 1
            self.weight[over] *= torch.where(rank[over] >= READ_RIGHT, 1 / REWEIGHED, REWEIGHED)
            self._begin(over[self.start[over] < self.attack.restarts])
            working = working[(rank[working] > 0) & (self.start[working] < self.attack.restarts)]
            free = BATCH - len(working)
            fresh, waiting = waiting[:free], waiting[free:]
            self._begin(fresh)
            working = torch.cat([working, fresh])
            if not len(working):
                return
            yield working
            self.step[working] += 1

    def move(self, rows: Tensor, direction: Tensor) -> None:
        """A step down ``direction``, large ones first, to get somewhere, small ones last, to stay there."""
        eps, own = self.attack.eps, self.images[rows]
        size = 2 * eps * (0.25 * (1 - self.step[rows] / self.attack.steps)).clamp_min(0.02)
        stepped = self.x[rows].detach() - size[:, None, None, None] * direction.sign()
        self.x[rows] = torch.minimum(torch.maximum(stepped, own - eps), own + eps).clamp(0, 1)

    def _begin(self, rows: Tensor) -> None:
        """The first start is at the image itself, the others about it."""
        if not len(rows):
            return
        own, again = self.images[rows], self.start[rows] > 0
        noise = torch.rand(own.shape, generator=self._draws) * 2 - 1
        self.x[rows] = (own + self.attack.eps * noise * again[:, None, None, None]).clamp(0, 1)
        self.step[rows] = 0
        if self._guides is not None and again.any():
            self._guides.draw(rows[again], self._draws)


@dataclass(frozen=True, eq=False)
class _Guides:
    """Honest images, as network and detector see them, and which of them each attacked image imitates."""

    seen: Tensor  # [M, F]
    classes: Tensor  # [M], as answered
    others: Tensor  # [N, M], by attacked image: which are answered with another class
    at: Tensor  # [N], the one that it imitates

    @classmethod
    def of(
        cls, network: PathNetwork, score: Detector, guides: Images, images: Images, labels: Tensor
    ) -> _Guides:
        """To begin with, each of ``images`` imitates the nearest that is answered with another class."""
        seen, classes = _looked_at(network, score, guides)
        if (classes == classes[0]).all():
            raise InvalidArgumentError("all guides are answered with one class: take images of several")
        others = classes != labels[:, None]
        own, _ = _looked_at(network, score, images)
        distance = torch.cdist(own.double(), seen.double()).masked_fill(~others, torch.inf)
        return cls(seen, classes, others, distance.argmin(1))

    def draw(self, rows: Tensor, generator: torch.Generator) -> None:
        """Let some images imitate others from now on."""
        self.at[rows] = torch.multinomial(self.others[rows].float(), 1, generator=generator)[:, 0]

    def imitated(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the detector is to see of some images, ``[n, F]``, and as which classes they are to be read."""
        return self.seen[self.at[rows]], self.classes[self.at[rows]]


@torch.no_grad()
def _looked_at(network: PathNetwork, score: Detector, images: Images) -> tuple[Tensor, Tensor]:
    """What a detector sees of images, ``[N, F]``, and the classes that they are taken for."""
    outputs = [network(batch) for batch in torch.split(torch.from_numpy(images), BATCH)]
    seen = torch.cat([score.seen(output) for output in outputs])
    return seen, torch.cat([output.logits.argmax(1) for output in outputs])


@dataclass(frozen=True, eq=False)
class _Victim:
    network: PathNetwork
    score: Detector
    threshold: float
    labels: Tensor
    weight: Tensor  # [N], of the detector
    freed: Tensor  # [N], whether ``orthogonal`` frees each gradient of the other
    guide: tuple[Tensor, Tensor] | None = None  # what the detector is to see [N, F], and classes [N]

    def take(self, rows: Tensor, tries: _Tries, guides: _Guides | None) -> _Victim:
        """Some of them, as their tries have come to go about it, with what these are to imitate."""
        guide = None if guides is None else guides.imitated(rows)
        freed = tries.start[rows] % 2 == 0
        return replace(self, labels=self.labels[rows], weight=tries.weight[rows], freed=freed, guide=guide)

    def lead(self, output: GatedOutput) -> Tensor:
        """``[N]``: how far the right class leads the best wrong one."""
        return lead(output.logits, self.labels)

    def rank(self, output: GatedOutput, scores: Tensor) -> Tensor:
        """``[N]``, smaller is better for the attacker, 0 or less is won."""
        excess = (scores - self.threshold).detach()
        read_right = self.lead(output).detach() >= 0
        return torch.where(read_right, READ_RIGHT + self.lead(output).detach(), excess)


def _orthogonal(victim: _Victim, x: Tensor, output: GatedOutput, scores: Tensor) -> Tensor:
    margin = victim.lead(output)
    classifier = _gradient(margin.sum(), x, keep=True)
    detector = _gradient(scores.sum(), x)
    wrong, freed = (each[:, None, None, None] for each in (margin < 0, victim.freed))
    alone = torch.where(wrong, _without(detector, classifier), _without(classifier, detector))
    return torch.where(freed, alone, torch.where(wrong, detector, classifier))


def _without(vector: Tensor, other: Tensor) -> Tensor:
    """Each image's vector without its part along the other."""
    product = (vector * other).sum(dim=(1, 2, 3), keepdim=True)
    squares = (other**2).sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-20)
    return vector - product / squares * other


def _gradient(loss: Tensor, x: Tensor, *, keep: bool = False) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=keep)
    return gradient
