"""Classifiers of torchvision as backbones: they take images in 0..1 and bear torchvision's own names of weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import torchvision.models as models
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.normalize import Normalize

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Heads that only help in training would make a second and a third output of it.
_OPTIONS = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}


def build_torchvision(name: str, classes: int) -> nn.Module:
    """A fresh classifier of torchvision with its normalisation inside, as ``normalize``; nothing is downloaded.

    Args:
        name: as in `torchvision.models`: ``resnet18``, ``mobilenet_v2``.
        classes: number of classes.

    Raises:
        InvalidArgumentError: torchvision has no such classifier.
    """
    names = models.list_models(module=models)
    if name not in names:
        raise InvalidArgumentError(
            f"torchvision has no classifier {name!r}; it has {', '.join(sorted(names))}"
        )
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **_OPTIONS.get(name, {}))
    network.normalize = Normalize(MEAN, STD)
    network.__class__ = _normalizing(type(network))  # type: ignore[arg-type]
    return network


@cache
def _normalizing(kind: type[Any]) -> type[nn.Module]:
    """The class of networks that normalises first: a wrapper around them would change the names of all weights."""

    class Normalizing(kind):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Any:
            return super().forward(self.normalize(x))

        def __reduce__(self) -> tuple[Any, ...]:
            # Pickle finds classes by name, and this one has none.
            return _blank, (kind,), self.__dict__

    Normalizing.__qualname__ = Normalizing.__name__ = f"Normalizing{kind.__name__}"
    return Normalizing


def _blank(kind: type[Any]) -> nn.Module:
    made = _normalizing(kind)  # type: ignore[arg-type]
    return made.__new__(made)
