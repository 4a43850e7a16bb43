"""A network as the Adversarial Robustness Toolbox wants it, and a check that its gates let gradients through.

A gate's step function has no gradient. Where plain steps decide, an attack by gradients never moves a path, and a
result from it is worthless (Athalye et al., *Obfuscated Gradients*, 2018, https://arxiv.org/abs/1802.00420). The gates,
routers and cascades of `penstock.nn` pass gradients straight through; `live_bits` looks how far they do so here.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.errors import UnsupportedError
from penstock.nn.cascade import RAN, Cascade
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

PROBES = 16  # images that the check looks at
NAMED = 3  # layers that a warning names


class MaskedGradientsWarning(UserWarning):
    """No gradient goes through some of the gates: whatever an attack by gradients gives here says nothing."""


class LogitsOnly(nn.Module):
    """A network, with paths or without, that gives nothing but logits ``[N, classes]``.

    Args:
        network: answers images ``[N, C, H, W]`` in 0..1 with logits or as a `PathNetwork` does.
        remembers: whether the images asked about last are known again: the toolbox asks for the loss of a step, and
            then, for its gradient, the same once more. Only where gradients go to images alone, `frozen`.
    """

    def __init__(self, network: nn.Module, *, remembers: bool = False) -> None:
        super().__init__()
        self.network = network
        self.remembers = remembers
        self.last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x``."""
        if self.remembers:
            return cast(Tensor, _Remembered.apply(x, self))
        return self.answer(x)

    def asked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The images ``x`` as a leaf, and their logits with what a gradient needs, from before where they are there."""
        if self.last is None or not torch.equal(self.last[0], x):
            self.last = None  # two graphs at once would take twice the memory
            with torch.enable_grad():
                leaf = x.detach().clone().requires_grad_()
                self.last = leaf, self.answer(leaf)
        return self.last

    def answer(self, x: Tensor) -> Tensor:
        """Logits of ``x``, asked now."""
        output = self.network(x)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits


class _Remembered(torch.autograd.Function):
    """Logits whose graph belongs to the module that remembers them."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, module: LogitsOnly) -> Tensor:
        ctx.graph = module.asked(x)  # type: ignore[attr-defined]
        return ctx.graph[1].detach().clone()  # type: ignore[attr-defined,no-any-return]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        leaf, logits = ctx.graph  # type: ignore[attr-defined]
        (found,) = torch.autograd.grad(logits, leaf, gradients[0], retain_graph=True)
        return found, None


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """``[N]``: how far the right class leads the best wrong one in logits ``[N, classes]``."""
    right = F.one_hot(labels, logits.shape[1]).bool()
    return logits[right] - logits.masked_fill(right, -torch.inf).amax(1)


def live_bits(network: nn.Module, images: Images) -> dict[str, float]:
    """Of each layer that decides, the share of bits with a gradient to the image, among those that depend on it.

    All bits of all images are asked in one go: with J the Jacobian of the codes and v a random direction, an entry of
    J v is zero just where the gradient is. J v is the derivative of u -> J^T u, applied to v.

    Args:
        network: in evaluation mode; one without paths has no such layers.
        images: ``[N, C, H, W]`` in 0..1, of which the first `PROBES` are asked.

    Returns:
        by name of the layer, in path order. A cascade's second member is asked about all images, not only about those
        that it would answer.
    """
    if not isinstance(network, PathNetwork):
        return {}
    x = torch.from_numpy(images[:PROBES]).clone().requires_grad_()
    with torch.enable_grad():
        output = network(x)
        live, asked = (_moves(torch.cat(parts, dim=1), x) for parts in (output.codes, output.gate_logits))
    shares, steered = {}, _steered(network, output, x)
    for layer, part, code, decides in zip(
        network.layout.layers, network.layout.slices, output.codes, network.decides, strict=True
    ):
        # A gate may say the same of all images; a code without any gradient is masked, whatever it depends on.
        depends = asked[:, part] | (not code.requires_grad)
        if decides and depends.any():
            shares[layer.name] = live[:, part][depends].float().mean().item()
        elif decides and layer.name in steered:
            shares[layer.name] = 0.0  # its router moves, and is so sure that its softmax does not
    if isinstance(network, Cascade):
        shares |= {f"{RAN}.{name}": share for name, share in live_bits(network.second, images).items()}
    return shares


def _steered(network: PathNetwork, output: Any, x: Tensor) -> set[str]:
    """Names of layers whose bits differ among the prototypes of a router whose logits move with the images."""
    if not isinstance(network, ConsolidatedNetwork):
        return set()
    names, found = iter(network.layout.names), set()
    for router, logits in zip(network.routers, output.router_logits, strict=True):
        moves = bool(_moves(logits, x).any())
        for bits in torch.split(router.prototypes, router.filters, dim=1):
            name = next(names)
            if moves and bool((bits != bits[0]).any()):
                found.add(name)
    return found


def warn_of_masked_gradients(network: nn.Module, images: Images) -> None:
    """Warn if a layer that decides lets no gradient through.

    Warns:
        MaskedGradientsWarning: one does not.
    """
    shares = live_bits(network, images)
    masked = [name for name, share in shares.items() if not share]
    if masked:
        warnings.warn(
            f"{len(masked)} of {len(shares)} layers that decide ({', '.join(masked[:NAMED])}"
            f"{', ...' * (len(masked) > NAMED)}) pass no gradient to the image: an attack by gradients cannot move "
            "their bits, and a result from it is worthless. Use gates that pass gradients straight through "
            "(penstock.nn.gates.straight_through), with gradients enabled",
            MaskedGradientsWarning,
            stacklevel=3,
        )


def _moves(values: Tensor, x: Tensor) -> Tensor:
    """``[N, P]``: which values move with the images, in a random direction."""
    if not values.requires_grad:
        return torch.zeros_like(values, dtype=torch.bool)
    weights = torch.zeros_like(values, requires_grad=True)
    (pulled,) = torch.autograd.grad(values, x, weights, create_graph=True)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    (moved,) = torch.autograd.grad(pulled, weights, direction)
    return moved != 0


def toolbox_classifier(network: nn.Module, images: Images, *, remembers: bool = False) -> Any:
    """The toolbox's classifier of a network that takes images in 0..1.

    Args:
        network: put into evaluation mode.
        images: ``[N, C, H, W]``, at least one, that are about to be attacked.
        remembers: see `LogitsOnly`.

    Raises:
        UnsupportedError: the toolbox is not installed.

    Warns:
        MaskedGradientsWarning: gates let no gradient through.
    """
    try:
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise UnsupportedError('attacks need an extra: pip install "penstock[attacks]"') from error
    model = LogitsOnly(network, remembers=remembers).eval()
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
def frozen(network: nn.Module) -> Iterator[None]:
    """Parameters that ask for no gradients, which attacks have no use for and the toolbox would have computed."""
    asking = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


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
