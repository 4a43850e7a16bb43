"""Compute inflation: an attacker who does not care what is answered, only what it costs.

The used MACs are differentiable in the codes, and the codes in the image, so ascent finds images that open filters (cf.
Hong et al., *A Panda? No, It's a Sloth*, 2021, https://arxiv.org/abs/2010.02432).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import torch

from penstock.attacks.classifier import Images, warn_of_masked_gradients
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork

MOST_COMBINATIONS = 2**14


@dataclass(frozen=True, kw_only=True)
class Inflation:
    """Signed ascent on the used MACs within ``eps`` in the maximum norm; the costliest image met is kept."""

    eps: float = 8 / 255
    steps: int = 100

    def __call__(self, network: PathNetwork, images: Images) -> Images:
        """Attack ``images`` ``[N, C, H, W]`` in 0..1; the network is in evaluation mode.

        Warns:
            MaskedGradientsWarning: gates let no gradient through.
        """
        warn_of_masked_gradients(network, images)
        original = torch.from_numpy(images)
        best, most, x = original.clone(), torch.full((len(images),), -torch.inf), original
        for step in range(self.steps + 1):
            x = x.detach().requires_grad_()
            output = network(x)
            cost = output.active_macs[:, 0]
            # Filters that are shut have no cost to differentiate; their logits still say how to open them.
            opening = sum((logits.clamp_max(0.5).mean(1) for logits in output.gate_logits), torch.zeros(1))
            better = cost.detach() > most
            best[better], most[better] = x.detach()[better], cost.detach()[better]
            if step == self.steps:
                break
            (gradient,) = torch.autograd.grad((cost + 0.01 * opening).sum(), x)
            x = x.detach() + self.eps / 10 * gradient.sign()
            x = torch.minimum(torch.maximum(x, original - self.eps), original + self.eps).clamp(0, 1)
        attacked: Images = best.numpy()
        return attacked


def bound(network: PathNetwork) -> float:
    """The largest share of the dense MACs that any input can ask for, by construction.

    Of a network with prototypes that of the costliest combination of them, or, where these are too many to try, of
    their union, which costs no less; of a network with gates that of all filters.
    """
    layout = network.layout
    if not isinstance(network, ConsolidatedNetwork):
        return float(layout.active_macs(np.ones((1, layout.bits)))[0])
    tables = [router.prototypes.numpy() for router in network.routers]
    if prod(map(len, tables)) > MOST_COMBINATIONS:
        union = np.concatenate([table.max(axis=0) for table in tables])
        return float(layout.active_macs(union[None])[0])
    paths = np.stack([np.concatenate(parts) for parts in product(*tables)])
    return float(layout.active_macs(paths).max())
