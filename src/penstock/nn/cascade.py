"""Cascades: a small network answers what it is sure of, a large one the rest.

Most inputs are easy. With ``p1`` the first network's class probabilities, ``t`` the threshold and ``c1, c2`` what the
two networks cost,

    answer(x) = f1(x) if max p1(x) >= t, else f2(x)
    cost(x)   = c1 + c2 1[max p1(x) < t]

so the mean cost is met by the choice of t (confidence as in Teerapittayanon et al., *BranchyNet*, 2016,
https://arxiv.org/abs/1709.01686, here between whole networks). Both members are usually single prototypes, static
networks, and together they are a network with two paths whose choice depends on the input.

Path and cost are laid out as everywhere: the bits of both members end to end, with one more bit before those of the
second that says whether it ran and that bears what the second costs beside its gated layers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from penstock.errors import InvalidArgumentError
from penstock.nn.path_network import GatedOutput, PathNetwork
from penstock.paths import PathLayer, PathLayout

RAN = "second"  # name of the bit that says whether the second member ran


class Cascade(PathNetwork):
    """Two networks with paths that share the work.

    Args:
        first: answers every input.
        second: answers those of which the first is not sure.
        threshold: least confidence of an answer of the first.
    """

    threshold: Tensor

    def __init__(self, first: PathNetwork, second: PathNetwork, threshold: float = 1.0) -> None:
        super().__init__(joined(first.layout, second.layout))
        self.first = first
        self.second = second
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, x: Tensor) -> GatedOutput:
        """Run on images ``[N, C, H, W]``, the second member only on those that need it."""
        first = self.first(x)
        unsure = first.logits.softmax(1).amax(1) < self.threshold
        second = self.second(x[unsure])
        logits = first.logits.index_put((unsure,), second.logits)
        ran = unsure.to(logits.dtype)[:, None]
        codes = (*first.codes, ran, *(_placed(code, unsure, 0.0) for code in second.codes))
        # A member that did not run has no opinion of its filters: they were surely closed.
        opinions = (*first.gate_logits, ran - 0.5, *(_placed(y, unsure, -0.5) for y in second.gate_logits))
        responses = (*first.responses, ran, *(_placed(o, unsure, 0.0) for o in second.responses))
        active = self.active_macs(torch.cat(codes, dim=1))
        return GatedOutput(logits, codes, opinions, responses, active)


def joined(first: PathLayout, second: PathLayout) -> PathLayout:
    """The layout of a cascade.

    Raises:
        InvalidArgumentError: the two were not made from the same dense network.
    """
    if first.dense_macs != second.dense_macs:
        raise InvalidArgumentError(
            f"the first network was made from one of {first.dense_macs} MACs, the second from one of "
            f"{second.dense_macs}: a cascade takes two paths of the same network"
        )
    ran = len(first.layers)

    def moved(sources: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(source + ran + 1 for source in sources)

    own = [replace(layer, name=f"first.{layer.name}") for layer in first.layers]
    own.append(PathLayer(name=RAN, filters=1, macs=second.fixed_macs))
    own += [
        replace(layer, name=f"second.{layer.name}", sources=moved(layer.sources)) for layer in second.layers
    ]
    followers = [replace(each, name=f"first.{each.name}") for each in first.followers]
    followers += [
        replace(each, name=f"second.{each.name}", sources=moved(each.sources)) for each in second.followers
    ]
    return PathLayout(
        layers=tuple(own),
        fixed_macs=first.fixed_macs,
        dense_macs=first.dense_macs,
        followers=tuple(followers),
    )


def threshold_for(confidence: Tensor, first: float, second: float, budget: float) -> float:
    """The threshold at which a cascade costs as much as the budget allows.

    Args:
        confidence: ``[N]`` of the first member's answers to images that neither member has seen.
        first: mean cost of the first member, as a share of the dense MACs.
        second: mean cost of the second.
        budget: share of the dense MACs.

    Raises:
        InvalidArgumentError: the first member alone costs more.
    """
    if first > budget:
        raise InvalidArgumentError(
            f"the first network costs {first:.3f} of the dense MACs; the budget is {budget:.3f}"
        )
    share = min(1.0, (budget - first) / second)
    return float(torch.quantile(confidence.double(), share))


def _placed(part: Tensor, where: Tensor, rest: float) -> Tensor:
    """``[N, filters]`` with the rows of ``part`` where the second member ran, and ``rest`` elsewhere."""
    whole = part.new_full((len(where), part.shape[1]), rest)
    return whole.index_put((where,), part)
