"""Answers of a gated network for many images, as arrays: what detectors are fitted on and exports are checked by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from penstock.nn.path_network import PathNetwork


@dataclass(frozen=True, eq=False)
class Answers:
    """What a gated network said of ``N`` images.

    Attributes:
        logits: ``[N, classes]`` float32.
        bits: ``[N, P]`` uint8, the paths.
        gate_logits: ``[N, P]`` float32, y of all gates in path order.
        active_macs: ``[N]`` float32, share of the dense MACs.
    """

    logits: npt.NDArray[np.float32]
    bits: npt.NDArray[np.uint8]
    gate_logits: npt.NDArray[np.float32]
    active_macs: npt.NDArray[np.float32]

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """``[N]`` most likely class."""
        predicted: npt.NDArray[np.int64] = self.logits.argmax(axis=1)
        return predicted

    def accuracy(self, labels: npt.NDArray[np.int64]) -> float:
        """Share of right answers."""
        return float((self.predicted == labels).mean())


Levels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@torch.inference_mode()
def answer(network: PathNetwork, images: Levels, batch: int = 250) -> Answers:
    """Run a gated network with hard gates.

    Args:
        network: put into evaluation mode for the call.
        images: ``[N, C, H, W]`` grey levels, 0..255; uint8, or float32 for what lies between levels.
        batch: images per run.
    """
    training = network.training
    network.eval()
    pieces = []
    for start in range(0, len(images), batch):
        output = network(torch.from_numpy(images[start : start + batch]).float() / 255)
        path = torch.cat(output.codes, dim=1).to(torch.uint8)
        pieces.append((output.logits, path, torch.cat(output.gate_logits, dim=1), output.active_macs[:, 0]))
    network.train(training)
    return Answers(*(torch.cat(parts).numpy() for parts in zip(*pieces, strict=True)))


@torch.inference_mode()
def predict(network: nn.Module, images: Levels, batch: int = 500) -> npt.NDArray[np.int64]:
    """Most likely class of each image, from a network without gates.

    Args:
        network: in evaluation mode; gives logits ``[N, classes]``.
        images: ``[N, C, H, W]`` grey levels, 0..255, at least one.
        batch: images per run.

    Returns:
        ``[N]`` int64.
    """
    starts = range(0, len(images), batch)
    pieces = [
        network(torch.from_numpy(images[start : start + batch]).float() / 255).argmax(1) for start in starts
    ]
    predicted: npt.NDArray[np.int64] = torch.cat(pieces).numpy()
    return predicted
