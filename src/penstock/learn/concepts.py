"""How many concepts a path holds.

The paper's first version (https://arxiv.org/abs/2003.13268v1) speaks of a "fundamental metric", the diversity of the
concepts that a network has learned. Its definition could not be read, and the release has none, so this one is ours,
after the "unique detectors" of Network Dissection (Bau et al., CVPR 2017, https://arxiv.org/abs/1704.05796):

- The *response* of a channel to an image is the mean over space of its rectified output in the whole network.
- The *concept* of a channel is the class whose images its response tells best from all others: the one with the
  highest area under the ROC curve. (With labels for classes only, classes are the concepts that can be seen.)
  A channel that responds to all images alike has none.
- The *diversity* of a class's path in a layer is the effective number of concepts of its open channels,
  ``exp(-sum_k p_k ln p_k)``, the Hill number of order 1: from 1, all channels tell the same class, to the number of
  classes, each of them is told by as many.

`own_share` says how many of the open channels tell the class whose path it is. Both stand beside the same figures of
the whole layer, since a layer with few different channels cannot have a diverse path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata

from penstock.data import ImageSet
from penstock.nn.class_masks import MaskedNetwork
from penstock.paths import Floats, PathSet

NONE = -1  # the concept of a channel that tells nothing


@dataclass(frozen=True, kw_only=True)
class ConceptFigures:
    """Diversity of concepts; one value per layer, and their mean over layers as one number per network.

    Attributes:
        images: number of images behind the channels' concepts.
        diversity: effective number of concepts of a path, mean over layers and classes.
        diversity_by_layer: mean over classes.
        whole_by_layer: of all channels of the layer.
        own_share: share of a path's channels whose concept is the path's own class, mean over layers and classes.
        own_share_by_layer: mean over classes.
        whole_share: share of all channels that tell a class, mean over layers and classes: 1 / classes
            if every channel has a concept.
    """

    images: int
    diversity: float
    diversity_by_layer: tuple[float, ...]
    whole_by_layer: tuple[float, ...]
    own_share: float
    own_share_by_layer: tuple[float, ...]
    whole_share: float


def measure_concepts(network: MaskedNetwork, images: ImageSet) -> ConceptFigures:
    """Find every channel's concept and count those of the paths."""
    return concept_figures(concepts(responses(network, images), images.labels), network.paths, len(images))


@torch.no_grad()
def responses(network: MaskedNetwork, images: ImageSet, batch: int = 250) -> npt.NDArray[np.float32]:
    """``[N, P]`` responses of all masked channels in the whole network."""
    device = network.masks[0].scores.device
    pieces = []
    for start in range(0, len(images), batch):
        floats = torch.from_numpy(images.images[start : start + batch]).float().div_(255).to(device)
        layers = network.activations(floats)
        pieces.append(torch.cat([layer.float().relu().mean((2, 3)) for layer in layers], dim=1).cpu())
    return torch.cat(pieces).numpy()


def concepts(values: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """``[P]`` the class that each channel tells best, `NONE` for one that is the same for all images.

    Args:
        values: responses ``[N, P]``.
        labels: ``[N]``, every class from 0 to the largest among them.
    """
    ranks = np.stack([rankdata(column) for column in values.T])  # [P, N]
    areas = []
    for label in range(int(labels.max()) + 1):
        members = labels == label
        count = members.sum()
        above = ranks[:, members].sum(axis=1) - count * (count + 1) / 2  # Mann and Whitney's U
        areas.append(above / (count * (len(labels) - count)))
    best: npt.NDArray[np.int64] = np.stack(areas).argmax(axis=0)
    return np.where(values.min(axis=0) == values.max(axis=0), NONE, best)


def concept_figures(concept: npt.NDArray[np.int64], paths: PathSet, images: int) -> ConceptFigures:
    """Count concepts of paths.

    Args:
        concept: ``[P]`` class that each channel tells, or `NONE`.
        paths: ``[classes, P]``.
        images: number of images behind ``concept``.
    """
    classes = len(paths)
    diversity, whole, own, tells = [], [], [], []
    for part in paths.layout.slices:
        told = (concept[part, None] == np.arange(classes)).astype(np.float64)  # [filters, classes]
        counts = paths.bits[:, part] @ told  # [path, concept]
        open_ = np.maximum(paths.bits[:, part].sum(axis=1), 1)
        diversity.append(np.mean([effective_number(row) for row in counts]))
        own.append(np.mean(np.diag(counts) / open_))
        whole.append(effective_number(told.sum(axis=0)))
        tells.append(told.mean())
    return ConceptFigures(
        images=images,
        diversity=float(np.mean(diversity)),
        diversity_by_layer=tuple(map(float, diversity)),
        whole_by_layer=tuple(map(float, whole)),
        own_share=float(np.mean(own)),
        own_share_by_layer=tuple(map(float, own)),
        whole_share=float(np.mean(tells)),
    )


def effective_number(counts: Floats) -> float:
    """Hill number of order 1 of ``[K]`` counts; 0 where there is nothing to count."""
    shares = counts[counts > 0] / max(counts.sum(), 1e-300)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
