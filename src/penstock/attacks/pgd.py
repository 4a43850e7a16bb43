"""Projected gradient descent against a decoupled network, gates included.

Gates are step functions: plain gradients stop there, and an attack that ignores this measures nothing (Athalye et
al., *Obfuscated Gradients*, 2018, https://arxiv.org/abs/1802.00420). `penstock.nn.gates` passes gradients straight
through them, so the attack below moves paths as well as activations. The attack itself (Madry et al., 2018,
https://arxiv.org/abs/1706.06083) is that of the Adversarial Robustness Toolbox.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from penstock.attacks.classifier import Images, Labels, frozen, seeded, toolbox_classifier


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent in the maximum norm, untargeted, from a random start.

    Attributes:
        eps: largest change of a value, where images run from 0 to 1.
        step: change per step.
        steps: number of steps.
        seed: of the random start.
    """

    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 20
    seed: int = 0

    def __call__(self, network: nn.Module, images: Images, labels: Labels) -> Images:
        """Attack ``images`` ``[N, C, H, W]`` in 0..1 whose right classes are ``labels`` ``[N]``.

        Returns:
            ``[N, C, H, W]`` in 0..1, each within ``eps`` of its image.

        Raises:
            UnsupportedError: the Adversarial Robustness Toolbox is not installed.
        """
        classifier = toolbox_classifier(network, images)
        from art.attacks.evasion import ProjectedGradientDescentPyTorch

        with frozen(network), seeded(self.seed):
            attack = ProjectedGradientDescentPyTorch(
                classifier,
                norm=np.inf,
                eps=self.eps,
                eps_step=self.step,
                max_iter=self.steps,
                num_random_init=1,
                batch_size=128,
                verbose=False,
            )
            attacked: Images = attack.generate(images, labels).astype(np.float32)
        return attacked
