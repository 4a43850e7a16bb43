"""Attacks of the Adversarial Robustness Toolbox as values: what they may do is all in their fields.

Each is called with a network, images ``[N, C, H, W]`` in 0..1 and their right classes ``[N]``; it gives changed images.
All are untargeted and see a network through `penstock.attacks.classifier`, so gates pass gradients.

- `FGSM`: one step (Goodfellow et al., 2015, https://arxiv.org/abs/1412.6572)
- `AutoAttack`: after Croce and Hein, 2020 (https://arxiv.org/abs/2003.01690), of the same four as the toolbox's form of
  it, its adaptive PGD on two losses, its DeepFool, and our `penstock.attacks.square`; weaker than the original,
  docs/threat-model.md says in what
- `DeepFool`: least change by linearisation (Moosavi-Dezfooli et al., 2016, https://arxiv.org/abs/1511.04599)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from penstock.attacks.classifier import Images, Labels, LogitsOnly, frozen, seeded, toolbox_classifier
from penstock.attacks.square import Square

BATCH = 128
FEW = (
    16  # images at once for DeepFool, which asks for all gradients of a batch until its last image is turned
)
ROUNDING = 1e-4  # of a bound, as the toolbox allows


class Attack(Protocol):
    """Changes images so that a network misreads them."""

    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Images like ``images`` ``[N, C, H, W]``, in 0..1, whose right classes are ``labels`` ``[N]``."""


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """One step of ``eps`` along the sign of the gradient."""

    eps: float = 8 / 255
    seed: int = 0

    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Attack, see `Attack`."""

        def make(classifier: Any) -> Any:
            from art.attacks.evasion import FastGradientMethod

            return FastGradientMethod(classifier, eps=self.eps, batch_size=BATCH)

        return _run(make, network, images, labels, self.seed)


@dataclass(frozen=True, kw_only=True)
class AdaptivePGD:
    """Steps that halve where they do not help, from random starts in turn on what is not turned yet.

    Attributes:
        eps: largest change of a value.
        steps: per start.
        restarts: number of starts.
        loss: ``cross_entropy`` or ``difference_logits_ratio``.
        seed: of all random choices.
    """

    eps: float = 8 / 255
    steps: int = 100
    restarts: int = 5
    loss: str = "cross_entropy"
    seed: int = 0

    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Attack, see `Attack`."""

        def make(classifier: Any) -> Any:
            from art.attacks.evasion import AutoProjectedGradientDescent

            return AutoProjectedGradientDescent(
                classifier,
                norm=np.inf,
                eps=self.eps,
                eps_step=self.eps / 4,
                max_iter=self.steps,
                nb_random_init=self.restarts,
                batch_size=BATCH,
                loss_type=self.loss,
                verbose=False,
            )

        return _run(make, network, images, labels, self.seed, remembers=True)


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """Four attacks in the maximum norm, each on what the ones before it did not turn.

    The ratio of differences of logits compares three of them, so where there are two classes three attacks are left.

    Attributes:
        eps: largest change of a value.
        steps: of each adaptive PGD.
        restarts: of each adaptive PGD.
        queries: of Square.
        seed: of all random choices.
    """

    eps: float = 8 / 255
    steps: int = 100
    restarts: int = 5
    queries: int = 5000
    seed: int = 0

    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Attack, see `Attack`; what none of them turns is left as it was."""
        answered = _answers(network, images)
        attacked, left = images.copy(), np.flatnonzero(answered.argmax(1) == labels)
        for attack in self._attacks(answered.shape[1]):
            if not len(left):
                break
            tried = attack(network, images[left], labels[left])
            near = np.abs(tried - images[left]).max(axis=(1, 2, 3)) <= self.eps * (1 + ROUNDING)
            turned = near & (_answers(network, tried).argmax(1) != labels[left])
            attacked[left[turned]], left = tried[turned], left[~turned]
        return attacked

    def _attacks(self, classes: int) -> tuple[Attack, ...]:
        losses = ("cross_entropy", "difference_logits_ratio")[: 2 if classes > 2 else 1]
        descents = (
            AdaptivePGD(eps=self.eps, steps=self.steps, restarts=self.restarts, loss=loss, seed=self.seed)
            for loss in losses
        )
        return (
            *descents,
            DeepFool(steps=self.steps, overshoot=1e-3, seed=self.seed),
            Square(eps=self.eps, queries=self.queries, seed=self.seed),
        )


@dataclass(frozen=True, kw_only=True)
class DeepFool:
    """The nearest boundary of the linearised network, again and again.

    Attributes:
        steps: at most.
        overshoot: how far beyond the boundary to go, as a share of the way.
        seed: of all random choices.
    """

    steps: int = 50
    overshoot: float = 0.02
    seed: int = 0

    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Attack, see `Attack`."""

        def make(classifier: Any) -> Any:
            from art.attacks.evasion import DeepFool as Toolbox

            return Toolbox(
                classifier, max_iter=self.steps, epsilon=self.overshoot, batch_size=FEW, verbose=False
            )

        return _run(make, network, images, labels, self.seed)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Another network's adversarial images, shown to this one.

    Attributes:
        attack: made on the other network.
        other: the other network.
    """

    attack: Attack
    other: nn.Module

    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Attack, see `Attack`; ``network`` is never asked."""
        return self.attack(self.other, images, labels)


@torch.no_grad()
def _answers(network: nn.Module, images: Images) -> npt.NDArray[np.float32]:
    """Logits ``[N, classes]``."""
    model = LogitsOnly(network).eval()
    parts = [model(part) for part in torch.split(torch.from_numpy(images), BATCH)]
    answers: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return answers


def _run(
    make: Callable[[Any], Any],
    network: nn.Module,
    images: Images,
    labels: Labels,
    seed: int,
    *,
    remembers: bool = False,
) -> Images:
    classifier = toolbox_classifier(network, images, remembers=remembers)
    with frozen(network), seeded(seed):
        attacked: Images = make(classifier).generate(images, labels).astype(np.float32)
    return np.clip(attacked, 0.0, 1.0)
