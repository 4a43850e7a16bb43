"""Simple detectors to compare with, fitted on the honest training images that the path detector is fitted on.

All see what the network's inputs and outputs allow, which `read` reads once for all of them; larger is stranger. None
is trained on attacks. So two are less than their papers': those take the features of all layers, change the input a
little before they look (Lee et al.), and let a classifier weigh the layers that has seen attacks.

- ``max-softmax``: minus the largest probability (Hendrycks and Gimpel, 2017, https://arxiv.org/abs/1610.02136)
- ``energy``: minus log sum exp of the logits (Liu et al., 2020, https://arxiv.org/abs/2010.03759)
- ``feature-mahalanobis``: distance of the last layer's inputs (Lee et al., 2018, https://arxiv.org/abs/1807.03888), in
  the same shrunk form that gate logits get
- ``lid``: local intrinsic dimension of these inputs among training images (Ma et al., 2018,
  https://arxiv.org/abs/1801.02613)
- ``fourier``: distance of the image's log spectrum from that of training images (after Lorenz et al., 2021,
  https://arxiv.org/abs/2111.08785, who train a classifier on attacks instead)
- ``cdrp``: distance of channel weights that are optimised per image to keep the answer while most go to zero (after
  Wang et al., CVPR 2018); 30 forward and backward runs per image, and so the only one that costs far more, that is
  fitted on no more than `CDRP_FIT` of the images, and that judges no more than `CDRP_CLEAN` clean ones of each part:
  intervals of areas depend on the fewer attacked images

Of a cascade, features and channel weights are those of its first member, which all images reach; the class is the one
that the cascade answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.attacks.classifier import Images, LogitsOnly
from penstock.detect import GateMahalanobis, PathFeatures
from penstock.nn.cascade import Cascade
from penstock.nn.gates import Gate
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.routing import RoutedNorm, StageRouter
from penstock.nn.static import compact

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Fitted = dict[str, Floats32]
Keep = Callable[[str, Callable[[], Fitted]], Fitted]
NEIGHBOURS = 20  # of the local intrinsic dimension
RANK = 64  # directions of a Mahalanobis distance
BATCH = 250
CDRP_STEPS, CDRP_RATE, CDRP_SPARSITY = 30, 0.1, 0.05  # those of its release
CDRP_FIT = 5000  # images at most: they take some twenty minutes
CDRP_CLEAN = 1499  # one fewer than 1,500: rates of 1 % and 5 % are met exactly, `penstock.data.splitting`
NAMES = ("max-softmax", "energy", "feature-mahalanobis", "lid", "fourier", "cdrp")


@dataclass(frozen=True, eq=False)
class Reading:
    """What there is to see of images.

    Attributes:
        images: ``[N, C, H, W]``, float32 in 0..1 or bytes.
        logits: ``[N, classes]``.
        features: ``[N, F]``: what enters the last layer that all images reach, averaged over space.
    """

    images: Images | Bytes
    logits: Floats32
    features: Floats32

    def spread(self, most: int) -> Reading:
        """As many of them at most, evenly spread."""
        at = evenly(len(self.images), most)
        return Reading(self.images[at], self.logits[at], self.features[at])


Score = Callable[[Reading], Floats]


def evenly(count: int, most: int) -> npt.NDArray[np.intp]:
    """Places of all of ``count`` images, or of ``most`` that are evenly spread over them."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.intp)


def fit_baselines(
    names: Sequence[str],
    network: nn.Module,
    honest: Callable[[], Images | Bytes],
    keep: Keep = lambda _, make: make(),
) -> dict[str, Score]:
    """Some of `NAMES`, fitted.

    Args:
        names: which.
        network: in evaluation mode, with paths or without.
        honest: gives training images ``[N, C, H, W]``, float32 in 0..1 or bytes; asked once at most.
        keep: given a baseline's name and how to fit it; may know the arrays from before.
    """

    @cache
    def seen() -> Reading:
        return read(network, honest())

    return {name: _fitted(name, network, seen, keep) for name in names}


def compare(scores: Mapping[str, Score], seen: Reading) -> dict[str, Floats]:
    """Scores of clean images by baseline, ``[N]``; of ``cdrp`` those of `CDRP_CLEAN` at most, evenly spread."""
    return {
        name: score(seen.spread(CDRP_CLEAN) if name == "cdrp" else seen) for name, score in scores.items()
    }


def _fitted(name: str, network: nn.Module, honest: Callable[[], Reading], keep: Keep) -> Score:
    if name in ("max-softmax", "energy"):
        return lambda seen: _of_logits(name, seen.logits)
    if name == "lid":
        reference = keep(name, lambda: {"reference": honest().features})["reference"]
        return lambda seen: local_dimension(seen.features, reference)
    values: dict[str, Callable[[Reading], Floats32]] = {
        "feature-mahalanobis": lambda seen: seen.features,
        "fourier": lambda seen: log_spectrum(seen.images),
        "cdrp": lambda seen: channel_weights(network, seen.images),
    }
    of, by_class = values[name], name != "fourier"  # an image's spectrum needs no class

    def described(seen: Reading) -> PathFeatures:
        found = of(seen)
        predicted = seen.logits.argmax(1) if by_class else np.zeros(len(found), np.int64)
        return PathFeatures((found > 0).astype(np.uint8), found, predicted)

    def fit() -> Fitted:
        known = honest().spread(CDRP_FIT) if name == "cdrp" else honest()
        return vars(GateMahalanobis.fit(described(known), known.logits.shape[1], RANK))

    distance = GateMahalanobis(**keep(name, fit))
    return lambda seen: distance.score(described(seen))


def local_dimension(features: Floats32, reference: Floats32) -> Floats:
    """Maximum-likelihood local intrinsic dimension of each row ``[N, F]`` among reference rows ``[M, F]``."""
    count = min(NEIGHBOURS, len(reference) - 1)
    result = np.empty(len(features))
    for start in range(0, len(features), BATCH):
        distances = torch.cdist(
            torch.from_numpy(features[start : start + BATCH]).double(), torch.from_numpy(reference).double()
        ).numpy()
        nearest = np.sort(np.partition(distances, count - 1, axis=1)[:, :count], axis=1).clip(1e-12)
        mean = np.log(nearest / nearest[:, -1:]).mean(axis=1)
        result[start : start + BATCH] = -1 / np.minimum(mean, -1e-12)
    return result


def log_spectrum(images: Images | Bytes) -> Floats32:
    """Log magnitudes of each channel's Fourier transform, averaged over channels, ``[N, F]``."""
    magnitudes = [np.abs(np.fft.rfft2(batch.numpy())).mean(axis=1) for batch in _batches(images)]
    spectrum: Floats32 = np.log(np.concatenate(magnitudes) + 1e-3).reshape(len(images), -1).astype(np.float32)
    return spectrum


def channel_weights(network: nn.Module, images: Images | Bytes) -> Floats32:
    """Weights ``[N, channels]`` of all layers' outputs that keep the answer with as little weight as may be.

    Layers are batch norms, or convolutions where a network has none. Of a network with one prototype, channels that are
    closed for every image have none: theirs would be the same for all.
    """
    model = LogitsOnly(_open_only(_always_run(network)))
    layers = _layers(model)
    pieces = []
    for x in _batches(images):
        with torch.no_grad():
            wanted = model(x).softmax(1)
        weights = [torch.ones(len(x), channels, requires_grad=True) for channels in layers.values()]
        handles = [
            layer.register_forward_hook(_weighting(w)) for layer, w in zip(layers, weights, strict=True)
        ]
        try:
            for _ in range(CDRP_STEPS):
                kept = F.cross_entropy(model(x), wanted, reduction="sum")
                loss = kept + CDRP_SPARSITY * sum(weight.sum() for weight in weights)
                gradients = torch.autograd.grad(loss, weights)
                with torch.no_grad():
                    for weight, gradient in zip(weights, gradients, strict=True):
                        weight.sub_(CDRP_RATE * gradient).clamp_(0, 10)
        finally:
            for handle in handles:
                handle.remove()
        pieces.append(torch.cat([weight.detach() for weight in weights], dim=1))
    found: Floats32 = torch.cat(pieces).numpy()
    return found


@torch.no_grad()
def read(network: nn.Module, images: Images | Bytes) -> Reading:
    """What there is to see of images ``[N, C, H, W]``, float32 in 0..1 or bytes."""
    model = LogitsOnly(network)
    with entering_last(network) as features:
        logits = [model(batch) for batch in _batches(images)]
    return Reading(images, torch.cat(logits).numpy(), np.concatenate(features))


@contextmanager
def entering_last(network: nn.Module) -> Iterator[list[Floats32]]:
    """Collect the ``features`` of a `Reading` from whatever the network is asked meanwhile, a batch at a time."""
    found: list[Floats32] = []
    entering: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entering[:] = [inputs[0]]

    def collect(*_: object) -> None:
        (last,) = entering
        found.append((last.mean(dim=(2, 3)) if last.ndim == 4 else last).detach().numpy())

    common = _always_run(network)
    deciding = {
        id(inner)
        for module in common.modules()
        if isinstance(module, Gate | StageRouter)
        for inner in module.modules()
    }
    layers = [
        module
        for module in common.modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and id(module) not in deciding
    ]
    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    handles.append(network.register_forward_hook(collect))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _batches(images: Images | Bytes) -> Iterator[Tensor]:
    """Images in 0..1, a batch at a time: as floats a large set takes four times the memory that it has as bytes."""
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(images[start : start + BATCH])
        yield batch if batch.is_floating_point() else batch.float() / 255


def _layers(network: nn.Module) -> dict[nn.Module, int]:
    """Channels of each batch norm, or of each convolution where there are none; those that decide on paths left out."""
    norms = dict(_outermost(network, (nn.BatchNorm2d, RoutedNorm)))
    return norms or dict(_outermost(network, (nn.Conv2d,)))


def _outermost(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[tuple[nn.Module, int]]:
    """Modules of some kinds that are in no other of these, and their channels."""
    for child in module.children():
        if isinstance(child, kinds):
            yield child, _channels(child)
        elif not isinstance(child, Gate | StageRouter):
            yield from _outermost(child, kinds)


def _channels(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    norm = layer.norms[0] if isinstance(layer, RoutedNorm) else layer
    return cast(nn.BatchNorm2d, norm).num_features


def _always_run(network: nn.Module) -> nn.Module:
    """The part of a network that every image goes through: of a cascade its first member."""
    return network.first if isinstance(network, Cascade) else network


def _open_only(network: nn.Module) -> nn.Module:
    """A network with one prototype as the smaller one that it is."""
    if isinstance(network, ConsolidatedNetwork) and network.config.count == 1:
        return compact(network, responds=False)
    return network


def _of_logits(name: str, logits: Floats32) -> Floats:
    tensor = torch.from_numpy(logits).double()
    score: Floats = (-tensor.softmax(1).amax(1) if name == "max-softmax" else -tensor.logsumexp(1)).numpy()
    return score


def _weighting(weight: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _, __, output: output * weight[:, :, None, None]
