"""Attacks of the Adversarial Robustness Toolbox as values: what they may do is all in their fields.

Each is called with a network, images ``[N, C, H, W]`` in 0..1 and their right classes ``[N]``; it gives changed images.
All are untargeted and see a network through `penstock.attacks.classifier`, so gates pass gradients.

- `FGSM`: one step (Goodfellow et al., 2015, https://arxiv.org/abs/1412.6572)
- `AutoAttack`: the toolbox's form of it, adaptive PGD on two losses, DeepFool, Square (after Croce and Hein, 2020,
  https://arxiv.org/abs/2003.01690); weaker than the original, docs/threat-model.md says in what
- `DeepFool`: least change by linearisation (Moosavi-Dezfooli et al., 2016, https://arxiv.org/abs/1511.04599)
- `Square`: random search that sees scores only (Andriushchenko et al., 2020, https://arxiv.org/abs/1912.00049)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn

from penstock.attacks.classifier import Images, Labels, frozen, seeded, toolbox_classifier
from penstock.errors import UnsupportedError

BATCH = 128
FEW = (
    16  # images at once for DeepFool, which asks for all gradients of a batch until its last image is turned
)


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
class AutoAttack:
    """Four attacks, each on what the ones before it did not turn, in the maximum norm.

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
        """Attack, see `Attack`.

        Raises:
            UnsupportedError: the package ``multiprocess`` is missing, which the toolbox's form of it needs.
        """
        return _run(self._make, network, images, labels, self.seed)

    def _make(self, classifier: Any) -> Any:
        try:
            import multiprocess  # noqa: F401 - the toolbox looks for it only when the attack starts
            from art.attacks import evasion
            from art.attacks.evasion.auto_attack import AutoAttack as Toolbox
        except ImportError as error:
            raise UnsupportedError(
                f'AutoAttack needs {error.name}: pip install "penstock[attacks]"'
            ) from error
        descents = [
            evasion.AutoProjectedGradientDescent(
                classifier,
                norm=np.inf,
                eps=self.eps,
                eps_step=self.eps / 4,
                max_iter=self.steps,
                nb_random_init=self.restarts,
                batch_size=BATCH,
                loss_type=loss,
                verbose=False,
            )
            for loss in ("cross_entropy", "difference_logits_ratio")
        ]
        fool = evasion.DeepFool(classifier, max_iter=self.steps, epsilon=1e-3, batch_size=FEW, verbose=False)
        square = evasion.SquareAttack(
            classifier, norm=np.inf, max_iter=self.queries, eps=self.eps, batch_size=BATCH, verbose=False
        )
        return Toolbox(
            classifier,
            norm=np.inf,
            eps=self.eps,
            eps_step=self.eps / 4,
            attacks=[*descents, fool, square],
            batch_size=BATCH,
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
class Square:
    """Random squares that are kept where they help; no gradients, so no gate can mask them.

    Attributes:
        eps: largest change of a value.
        queries: answers that it may ask for.
        seed: of all random choices.
    """

    eps: float = 8 / 255
    queries: int = 1000
    seed: int = 0

    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Attack, see `Attack`."""

        def make(classifier: Any) -> Any:
            from art.attacks.evasion import SquareAttack

            return SquareAttack(
                classifier,
                norm=np.inf,
                max_iter=self.queries,
                eps=self.eps,
                batch_size=BATCH,
                verbose=False,
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


def _run(make: Callable[[Any], Any], network: nn.Module, images: Images, labels: Labels, seed: int) -> Images:
    classifier = toolbox_classifier(network, images)
    with frozen(network), seeded(seed):
        attacked: Images = make(classifier).generate(images, labels).astype(np.float32)
    return np.clip(attacked, 0.0, 1.0)
