"""Compute inflation: an attacker who does not care what is answered, only what it costs.

The used MACs are differentiable in the codes, and the codes in the image, so ascent finds images that open filters (cf.
Hong et al., *A Panda? No, It's a Sloth*, 2021, https://arxiv.org/abs/2010.02432) and, in a cascade, images of which the
first member is unsure.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from penstock.attacks.classifier import Images, warn_of_masked_gradients
from penstock.nn.cascade import Cascade
from penstock.nn.path_network import GatedOutput, PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork

BATCH = 128
MOST_COMBINATIONS = 2**14
ROUNDING = 1e-5  # of a cost in single precision


@dataclass(frozen=True, kw_only=True)
class Inflation:
    """Signed ascent on the used MACs within ``eps`` in the maximum norm; the costliest image met is kept."""

    eps: float = 8 / 255
    steps: int = 100

    def __call__(self, network: PathNetwork, images: Images) -> Images:
        """Attack ``images`` ``[N, C, H, W]`` in 0..1; the network is in evaluation mode.

        Warns:
            MaskedGradientsWarning: a layer that decides lets no gradient through.
        """
        warn_of_masked_gradients(network, images)
        most = bound(network)
        batches = torch.split(torch.from_numpy(images), BATCH)
        attacked: Images = torch.cat([self._attack(network, batch, most) for batch in batches]).numpy()
        return attacked

    def _attack(self, network: PathNetwork, original: Tensor, most: float) -> Tensor:
        best, reached, x = original.clone(), torch.full((len(original),), -torch.inf), original.clone()
        for step in range(self.steps + 1):
            (left,) = torch.where(reached < most - ROUNDING)
            moved, own = x[left].requires_grad_(), original[left]
            output = network(moved)
            cost = output.active_macs[:, 0]
            better = cost.detach() > reached[left]
            best[left[better]], reached[left[better]] = moved.detach()[better], cost.detach()[better]
            if (
                step == self.steps or not (reached < most - ROUNDING).any()
            ):  # nothing costs more than the bound
                break
            (gradient,) = torch.autograd.grad((cost + 0.01 * _openness(network, output)).sum(), moved)
            moved = moved.detach() + self.eps / 10 * gradient.sign()
            x[left] = torch.minimum(torch.maximum(moved, own - self.eps), own + self.eps).clamp(0, 1)
        return best


def bound(network: PathNetwork) -> float:
    """The largest share of the dense MACs that any input can ask for, by construction.

    Of a network with prototypes that of the costliest combination of them, or, where these are too many to try, of
    their union, which costs no less; of a network with gates that of all filters; of a cascade that of both members.
    """
    return float(network.layout.active_macs(_costliest(network)[None])[0])


def _costliest(network: PathNetwork) -> npt.NDArray[np.float32]:
    """A path ``[P]`` that costs no less than any that the network can take."""
    if isinstance(network, Cascade):
        return np.concatenate([_costliest(network.first), np.ones(1, np.float32), _costliest(network.second)])
    everything = np.ones(network.layout.bits, np.float32)
    if not isinstance(network, ConsolidatedNetwork):
        return everything
    tables = [router.prototypes.numpy() for router in network.routers]
    if prod(map(len, tables)) > MOST_COMBINATIONS:
        paths = np.concatenate([table.max(axis=0) for table in tables])[None]
    else:
        paths = np.stack([np.concatenate(parts) for parts in product(*tables)])
    paths = np.pad(
        paths, ((0, 0), (0, len(everything) - paths.shape[1])), constant_values=1
    )  # observers come last
    costliest: npt.NDArray[np.float32] = paths[network.layout.active_macs(paths).argmax()]
    return costliest


def _openness(network: PathNetwork, output: GatedOutput) -> Tensor:
    """How near filters are to opening, ``[N]``: those that are shut have no cost to differentiate.

    Observers, which cost the same whatever they say, are left out.
    """
    ruling = zip(network.layout.layers, output.gate_logits, strict=True)
    near = [logits.clamp_max(0.5).mean(1) for layer, logits in ruling if not layer.observes]
    return torch.stack(near).sum(0)
