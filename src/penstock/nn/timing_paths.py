r"""Random gates and routers that spread inputs evenly over paths: what timing sources (`penstock.nn.timing`) need.

Left as they are drawn, gates and routers of a random network say nearly the same for every image, because what differs
between images is small beside what they share. So they are *centred* on a few example images. With ``h`` the hidden
units of a gate or router, ``m`` their mean over the examples and ``V_q S_q`` the first q singular vectors and values of
``h - m`` over N examples,

    c = sqrt(N) S_q^-1 V_q^T (h - m)        whitened: every component has variance 1      ``[N, q]``
    y_j = w_j c - t_j                       gate logits; t_j the quantile ``1 - density`` of ``w_j c``
    r_k = d_k c + b_k                       router logits; b such that every prototype is argmax r equally often

with random unit vectors ``w_j`` and ``d_k``. Whitening matters beyond the scale: without it the brightness of an image
alone would decide, and open nearly all filters of one image and none of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.nn.gates import Gate
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.routing import StageRouter
from penstock.nn.surgery import GatedNetwork

COMPONENTS = 8  # q; more would follow the few examples too closely to hold for other images
ALWAYS = 8.0  # a logit at which a filter is open, whatever the image
FINEST_GRID = 7  # images vary over grids of 2 to 2^7 cells a side
BALANCING_STEPS = 200

Hook = Callable[[nn.Module, tuple[Any, ...]], None]


def timing_images(count: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Random textures of many scales, colours and contrasts, hard and soft, ``[count, C, H, W]`` float32 in 0..1."""
    draw = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    images = []
    for index in range(count):
        cells = 2 ** int(torch.randint(1, FINEST_GRID + 1, (), generator=draw))
        coarse = torch.rand(1, channels, cells, cells, generator=draw)
        ends = torch.rand(2, 1, channels, 1, 1, generator=draw)
        texture = F.interpolate(coarse, (height, width), mode=("nearest", "bilinear")[index % 2])
        images.append(ends.amin(0) + (ends.amax(0) - ends.amin(0)) * texture)
    return torch.cat(images)


@torch.inference_mode()
def centre_gates(network: GatedNetwork, examples: Tensor, density: float, draw: torch.Generator) -> None:
    """Draw gates anew so that each filter is open for a share ``density`` of the examples ``[N, C, H, W]``."""

    def centre(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        gate = cast(Gate, module)
        hidden = _draw_hidden(gate.normalize, gate.reduce, inputs[0], draw)
        mean, whiten = _whitening(hidden)
        weights = _directions(whiten.shape[1], gate.expand.out_features, draw)
        logits = (hidden - mean) @ whiten @ weights
        thresholds = torch.quantile(logits, 1 - density, dim=0)
        if density == 1:  # no image may close anything, not even one that is stranger than the examples
            weights, thresholds = torch.zeros_like(weights), torch.full_like(thresholds, -ALWAYS)
        _set_last(gate.expand, mean, whiten @ weights, -thresholds)

    _run_centring(network, [layer.gate for layer in network.gated_layers], centre, examples)


@torch.inference_mode()
def centre_routers(network: ConsolidatedNetwork, examples: Tensor, draw: torch.Generator) -> None:
    """Draw routers anew so that each prototype serves about as many of the examples ``[N, C, H, W]``."""

    def centre(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        router = cast(StageRouter, module)
        hidden = _draw_hidden(router.normalize, router.reduce, inputs[0], draw)
        mean, whiten = _whitening(hidden)
        weights = _directions(whiten.shape[1], router.count, draw)
        _set_last(router.expand, mean, whiten @ weights, _balance((hidden - mean) @ whiten @ weights))

    if network.config.count > 1:
        _run_centring(network, list(network.routers), centre, examples)


def _run_centring(network: nn.Module, modules: list[nn.Module], centre: Hook, examples: Tensor) -> None:
    """One pass over the examples, in which each module is centred on its inputs just before it decides on them.

    So later modules see what the centred earlier ones let through.
    """
    handles = [module.register_forward_pre_hook(centre) for module in modules]
    try:
        network(examples)
    finally:
        for handle in handles:
            handle.remove()


def _draw_hidden(normalize: nn.Module, reduce: nn.Linear, x: Tensor, draw: torch.Generator) -> Tensor:
    """Draw the hidden layer; gives its units for ``x`` ``[N, C, H, W]``, float64 ``[N, hidden]``."""
    pooled = x.mean(dim=(2, 3))
    if isinstance(normalize, nn.BatchNorm1d):
        cast(Tensor, normalize.running_mean).copy_(pooled.mean(0))
        cast(Tensor, normalize.running_var).copy_(pooled.var(0))
    reduce.weight.copy_(torch.randn(reduce.weight.shape, generator=draw) * (2 / reduce.in_features) ** 0.5)
    reduce.bias.zero_()
    return torch.relu(reduce(normalize(pooled))).double()


def _whitening(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """``m`` ``[hidden]`` and ``sqrt(N) V_q S_q^-1`` ``[hidden, q]`` of hidden units ``[N, hidden]``."""
    mean = hidden.mean(0)
    _, values, vectors = torch.linalg.svd(hidden - mean, full_matrices=False)
    some = min(COMPONENTS, int((values > 1e-3 * values[0]).sum()))
    return mean, len(hidden) ** 0.5 * vectors[:some].T / values[:some]


def _directions(components: int, count: int, draw: torch.Generator) -> Tensor:
    """Random unit vectors ``[components, count]``; orthogonal ones as far as there are so many."""
    rows = []
    for _ in range(-(-count // components)):
        square = torch.randn(components, components, generator=draw, dtype=torch.float64)
        rows.append(torch.linalg.qr(square).Q)
    return torch.cat(rows, dim=1)[:, :count]


def _balance(logits: Tensor) -> Tensor:
    """Biases ``[K]`` with which each of K logits ``[N, K]`` is the largest about equally often."""
    bias = torch.zeros_like(logits[0])
    for step in torch.linspace(1, 0, BALANCING_STEPS).tolist():
        chosen = F.one_hot((logits + bias).argmax(1), logits.shape[1]).double()
        bias -= step * (chosen.mean(0) - 1 / logits.shape[1])
    return bias


def _set_last(last: nn.Linear, mean: Tensor, weights: Tensor, bias: Tensor) -> None:
    """Let a last layer give ``(h - mean) weights + bias``."""
    last.weight.copy_(weights.T)
    last.bias.copy_(bias - mean @ weights)
