"""An active test of adaptive attacks: evasions that are known to be there must be found.

An attack that finds nothing may be weak, and the detector none the stronger (Zimmermann et al., *Increasing Confidence
in Adversarial Robustness Evaluations*, 2022, https://arxiv.org/abs/2206.13991). So evasions are planted. From an honest
image h that is not flagged, plain descent makes v, no farther than eps from it, which is read as another class a. Then
v is attacked as an image whose right class is a: h is within eps of it, read as another class, and not flagged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from penstock.attacks.adaptive import MARGIN, Adaptive, Detector
from penstock.attacks.classifier import Images, Labels
from penstock.attacks.pgd import PGD
from penstock.nn.path_network import PathNetwork

BATCH = 128
STEPS = 20  # of the descent that plants


@dataclass(frozen=True, eq=False)
class Planted:
    """Images to attack, each with an evasion nearby.

    Attributes:
        images: ``[N, C, H, W]`` in 0..1: v.
        labels: ``[N]`` what they are read as: a.
        evasions: ``[N, C, H, W]``: h.
    """

    images: Images
    labels: Labels
    evasions: Images


def plant(
    network: PathNetwork, score: Detector, threshold: float, honest: Images, eps: float, seed: int = 0
) -> Planted:
    """Make images of honest ones ``[M, C, H, W]``, of which those that are flagged or cannot be turned are left out."""
    read, unflagged = judged(network, score, threshold - MARGIN, honest)
    evasions, classes = honest[unflagged], read[unflagged]
    if not len(evasions):
        return Planted(evasions, classes, evasions)
    moved = PGD(eps=eps, step=eps / 4, steps=STEPS, seed=seed)(network, evasions, classes)
    labels, _ = judged(network, score, threshold, moved)
    turned = labels != classes
    return Planted(moved[turned], labels[turned], evasions[turned])


def found(
    attack: Adaptive,
    planted: Planted,
    network: PathNetwork,
    score: Detector,
    threshold: float,
    guides: Images | None = None,
) -> npt.NDArray[np.bool_]:
    """``[N]``: where an attack ends at an evasion, be it the one that was planted or another."""
    attacked = attack(network, score, threshold, planted.images, planted.labels, guides)
    read, unflagged = judged(network, score, threshold, attacked)
    got: npt.NDArray[np.bool_] = (read != planted.labels) & unflagged
    return got


@torch.no_grad()
def judged(
    network: PathNetwork, score: Detector, threshold: float, images: Images
) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """What images are read as, and which are not flagged, ``[N]`` each."""
    outputs = [network(part) for part in torch.split(torch.from_numpy(images), BATCH)]
    read: Labels = torch.cat([output.logits.argmax(1) for output in outputs]).numpy()
    unflagged: npt.NDArray[np.bool_] = torch.cat([score(output) <= threshold for output in outputs]).numpy()
    return read, unflagged
