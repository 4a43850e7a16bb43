"""Projected gradient descent against a decoupled network, gates included.

Gates are step functions: plain gradients stop there, and an attack that ignores this measures nothing (Athalye et
al., *Obfuscated Gradients*, 2018, https://arxiv.org/abs/1802.00420). `penstock.nn.gates` passes gradients straight
through them, so the attack below moves paths as well as activations. The attack itself (Madry et al., 2018,
https://arxiv.org/abs/1706.06083) is that of the Adversarial Robustness Toolbox.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from penstock.errors import UnsupportedError
from penstock.nn.path_network import PathNetwork


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

    def __call__(
        self, network: PathNetwork, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Attack ``images`` ``[N, C, H, W]`` in 0..1 whose right classes are ``labels`` ``[N]``.

        Returns:
            ``[N, C, H, W]`` in 0..1, each within ``eps`` of its image.

        Raises:
            UnsupportedError: the Adversarial Robustness Toolbox is not installed.
        """
        try:
            from art.attacks.evasion import ProjectedGradientDescentPyTorch
            from art.estimators.classification import PyTorchClassifier
        except ImportError as error:
            raise UnsupportedError('attacks need an extra: pip install "penstock[attacks]"') from error
        network.eval()
        with torch.no_grad():
            classes = network(torch.from_numpy(images[:1])).logits.shape[1]
        classifier = PyTorchClassifier(
            model=_LogitsOnly(network),
            loss=nn.CrossEntropyLoss(),
            input_shape=images.shape[1:],
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        np.random.seed(self.seed)  # noqa: NPY002 - the toolbox draws its random start from the global generator
        torch.manual_seed(self.seed)
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
        attacked: npt.NDArray[np.float32] = attack.generate(images, labels).astype(np.float32)
        return attacked


class _LogitsOnly(nn.Module):
    """The network as attack libraries want it: images in, logits out."""

    def __init__(self, network: PathNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).logits
        return logits
