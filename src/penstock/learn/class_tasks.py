"""What sub-architectures can do: each class's own task, and every class's images under every class's path.

A sub-architecture answers one question, "is this class c?", with yes where its most likely class is c. Of all images,
also those of other classes,

    recall       share of class c's images that get yes
    precision    share of the yeses that are right
    balanced     mean of recall and of the share of other classes' images that get no: 0.5 for one that always says
                 yes, which a mask learned from class c's images alone may well do

The paper's first finding is that a network can be divided so; its release does not measure it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from penstock.data import ImageSet
from penstock.errors import InvalidArgumentError
from penstock.nn.class_masks import MaskedNetwork, Use
from penstock.paths import PathSet

Integers = npt.NDArray[np.int64]
Rates = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TaskFigures:
    """What was measured; one value per class unless said otherwise.

    Attributes:
        images: number of images, of all classes.
        recall: of the sub-architecture.
        precision: of the sub-architecture; 0 where it never says yes.
        balanced: balanced accuracy of the sub-architecture.
        dense_recall: of the whole network, on the same images.
        dense_precision: of the whole network.
        dense_balanced: of the whole network.
        density: share of the filters that are open.
        mac_share: share of the dense network's MACs.
        cross: ``[c][d]`` share of class c's images that path d answers rightly, with c.
        yes: ``[c][d]`` share of class c's images of which path d says that they are of class d.
    """

    images: int
    recall: Rates
    precision: Rates
    balanced: Rates
    dense_recall: Rates
    dense_precision: Rates
    dense_balanced: Rates
    density: Rates
    mac_share: Rates
    cross: tuple[Rates, ...]
    yes: tuple[Rates, ...]


@torch.no_grad()
def logits_of(
    network: MaskedNetwork, images: ImageSet, row: int | None = None, batch: int = 250
) -> npt.NDArray[np.float32]:
    """Logits ``[N, classes]`` under the path of class ``row``, or with everything open."""
    device = network.masks[0].scores.device
    pieces = []
    for start in range(0, len(images), batch):
        floats = torch.from_numpy(images.images[start : start + batch]).float().div_(255).to(device)
        rows = None if row is None else torch.full((len(floats),), row, device=device)
        pieces.append(network(floats, rows, Use.HARD).float().cpu())
    return torch.cat(pieces).numpy()


def measure_tasks(network: MaskedNetwork, images: ImageSet) -> TaskFigures:
    """Send every image through the whole network and through every class's sub-architecture.

    Raises:
        InvalidArgumentError: a class has no image.
    """
    under = [logits_of(network, images, row).argmax(1) for row in range(network.classes)]
    return task_figures(
        np.stack(under, axis=1), logits_of(network, images).argmax(1), images.labels, network.paths
    )


def task_figures(under: Integers, dense: Integers, labels: Integers, paths: PathSet) -> TaskFigures:
    """The figures, from answers.

    Args:
        under: ``[N, classes]`` most likely class of each image under each class's path.
        dense: ``[N]`` most likely class of each image in the whole network.
        labels: ``[N]``.
        paths: ``[classes, P]``.

    Raises:
        InvalidArgumentError: a class has no image.
    """
    classes = len(paths)
    own = labels[:, None] == np.arange(classes)  # [N, classes]
    if not own.any(axis=0).all():
        raise InvalidArgumentError(
            f"no image of class {int(own.any(axis=0).argmin())}: its task has no recall"
        )
    yes = under == np.arange(classes)
    recall, precision, balanced = binary_rates(yes, own)
    dense_rates = binary_rates(dense[:, None] == np.arange(classes), own)
    right = under == labels[:, None]
    members = [labels == label for label in range(classes)]
    return TaskFigures(
        images=len(labels),
        recall=_plain(recall),
        precision=_plain(precision),
        balanced=_plain(balanced),
        dense_recall=_plain(dense_rates[0]),
        dense_precision=_plain(dense_rates[1]),
        dense_balanced=_plain(dense_rates[2]),
        density=_plain(paths.bits.mean(axis=1)),
        mac_share=_plain(paths.active_macs),
        cross=tuple(_plain(right[of].mean(axis=0)) for of in members),
        yes=tuple(_plain(yes[of].mean(axis=0)) for of in members),
    )


def binary_rates(
    yes: npt.NDArray[np.bool_], own: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Recall, precision and balanced accuracy of each column's yes-or-no task.

    Args:
        yes: ``[N, classes]`` answers.
        own: ``[N, classes]`` whether yes is right; every column holds both.

    Returns:
        three times ``[classes]``.
    """
    true = (yes & own).sum(axis=0)
    recall = true / own.sum(axis=0)
    precision = true / np.maximum(yes.sum(axis=0), 1)
    rejected = (~yes & ~own).sum(axis=0) / (~own).sum(axis=0)
    return recall, precision, (recall + rejected) / 2


def few_of_each(images: ImageSet, count: int) -> ImageSet:
    """The first ``count`` images of each class, or all where there are fewer, class after class."""
    classes = range(len(images.class_names))
    return images.take(np.concatenate([np.flatnonzero(images.labels == label)[:count] for label in classes]))


def _plain(values: npt.NDArray[np.float64]) -> Rates:
    return tuple(float(value) for value in values)
