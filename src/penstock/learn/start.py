"""Trained networks to start from or to learn from: a backbone, a file with weights, and what they expect of images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from penstock.errors import ConfigurationError, InvalidArgumentError
from penstock.learn.config import NormalizeConfig
from penstock.learn.weights import find_weights, load_weights
from penstock.nn.backbones import build_backbone
from penstock.nn.normalize import Normalize


def load_network(
    backbone: str,
    start: str | None,
    classes: int,
    *,
    data: Path | None = None,
    normalize: NormalizeConfig | None = None,
    fresh_classifier: bool = False,
) -> nn.Module:
    """A backbone with a file's weights.

    Args:
        backbone: its name.
        start: file with its weights, in the working folder or that of the data; ``None`` leaves it untrained.
        classes: number of classes.
        data: folder of the data.
        normalize: constants that the weights were trained with; ``None``: the file's or the backbone's own.
        fresh_classifier: leave the last layer untrained, whatever the file has in its place.

    Raises:
        InvalidArgumentError: no such backbone, or weights or constants that do not fit it.
        NotFoundError: the file is in none of the usual places.
    """
    network = build_backbone(backbone, classes)
    if start is not None:
        load_weights(network, find_weights(start, data), fresh_classifier=fresh_classifier)
    if normalize is not None:
        _set_constants(network, normalize, backbone)
    return network


def refuse_misfit(network: nn.Module, backbone: str, data: str, shape: tuple[int, ...]) -> None:
    """See now, and not after other work, that a network takes a data set's images; leaves it in evaluation mode.

    Args:
        network: a backbone.
        backbone: its name.
        data: name of the data set.
        shape: of one image.

    Raises:
        ConfigurationError: it does not.
    """
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *shape))
    except RuntimeError as error:
        raise ConfigurationError(
            f"backbone {backbone!r} does not take the images of {data!r}, {shape}: {error}"
        ) from error


def _set_constants(network: nn.Module, wanted: NormalizeConfig, backbone: str) -> None:
    own = getattr(network, "normalize", None)
    if not isinstance(own, Normalize):
        raise InvalidArgumentError(f"{backbone} has no normalisation of its own: leave out [normalize]")
    channels = own.mean.numel()
    if len(wanted.mean) != channels:
        raise InvalidArgumentError(
            f"normalize has constants for {len(wanted.mean)} channels; {backbone} takes images with {channels}"
        )
    own.mean.copy_(torch.tensor(wanted.mean).view_as(own.mean))
    own.std.copy_(torch.tensor(wanted.std).view_as(own.std))
