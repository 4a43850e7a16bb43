"""A network as the Adversarial Robustness Toolbox wants it, and a check that its gates let gradients through.

A gate's step function has no gradient. Where plain steps decide, an attack by gradients never moves a path, and a
result from it is worthless (Athalye et al., *Obfuscated Gradients*, 2018, https://arxiv.org/abs/1802.00420). The gates
and routers of `penstock.nn` pass gradients straight through; `toolbox_classifier` looks whether they do so here.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from penstock.errors import UnsupportedError

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

PROBES = 16  # images that the check looks at


class MaskedGradientsWarning(UserWarning):
    """No gradient goes through the gates: whatever an attack by gradients gives here says nothing."""


class LogitsOnly(nn.Module):
    """A network, with paths or without, that gives nothing but logits ``[N, classes]``.

    Args:
        network: answers images ``[N, C, H, W]`` in 0..1 with logits or as a `PathNetwork` does.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x``."""
        output = self.network(x)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits


def layers_that_pass(network: nn.Module, images: Images) -> tuple[int, int]:
    """How many gated layers' codes have a gradient with respect to the images that is not zero, and of how many.

    Args:
        network: in evaluation mode; one without gates has no such layers.
        images: ``[N, C, H, W]`` in 0..1.
    """
    x = torch.from_numpy(images[:PROBES]).clone().requires_grad_()
    with torch.enable_grad():
        output = network(x)
        if isinstance(output, Tensor):
            return 0, 0
        passing = 0
        for code in output.codes:
            if not code.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(code.sum(), x, retain_graph=True, allow_unused=True)
            passing += int(gradient is not None and bool((gradient != 0).any()))
    return passing, len(output.codes)


def warn_of_masked_gradients(network: nn.Module, images: Images) -> None:
    """Warn if gates let no gradient through at all.

    Warns:
        MaskedGradientsWarning: they do not.
    """
    passing, layers = layers_that_pass(network, images)
    if layers and not passing:
        warnings.warn(
            f"none of {layers} gated layers passes a gradient to the image: an attack by gradients cannot move a path "
            "here, and a result from it is worthless. Use gates that pass gradients straight through "
            "(penstock.nn.gates.binarize), with gradients enabled",
            MaskedGradientsWarning,
            stacklevel=3,
        )


def toolbox_classifier(network: nn.Module, images: Images) -> Any:
    """The toolbox's classifier of a network that takes images in 0..1.

    Args:
        network: put into evaluation mode.
        images: ``[N, C, H, W]``, at least one, that are about to be attacked.

    Raises:
        UnsupportedError: the toolbox is not installed.

    Warns:
        MaskedGradientsWarning: gates let no gradient through.
    """
    try:
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise UnsupportedError('attacks need an extra: pip install "penstock[attacks]"') from error
    model = LogitsOnly(network).eval()
    warn_of_masked_gradients(network, images)
    with torch.no_grad():
        classes = model(torch.from_numpy(images[:1])).shape[1]
    return PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=images.shape[1:],
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Fixed global generators, which the toolbox draws from, put back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the toolbox knows no other
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
