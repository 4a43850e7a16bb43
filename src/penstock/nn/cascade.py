"""Cascades: a small network answers what it is sure of, a large one the rest.

Most inputs are easy. With ``p1`` the first network's class probabilities, ``t`` the threshold, ``b`` the blend and
``c1, c2`` what the two networks cost,

    answer(x) = f1(x) if max p1(x) >= t, else f2(x) + b f1(x)
    cost(x)   = c1 + c2 1[max p1(x) < t]

so the choice of t sets the mean cost (confidence as in Teerapittayanon et al., *BranchyNet*, 2016,
https://arxiv.org/abs/1709.01686, here between whole networks). Both members are usually single prototypes, static
networks, and together they are a network with two paths whose choice depends on the input.

With gradients the choice goes straight through (`penstock.nn.gates`), into path, cost and, where the second member ran,
logits: an attack sees that it could make the first one sure of something wrong. Where it did not run, nothing says what
it would have answered; there an attack only sees what makes the first one less sure.

Path and cost are laid out as everywhere: the bits of both members end to end, with one more bit before those of the
second that says whether it ran and that bears what the second costs beside its gated layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.nn.gates import straight_through
from penstock.nn.path_network import GatedOutput, PathNetwork
from penstock.paths import PathLayer, PathLayout

RAN = "second"  # name of the bit that says whether the second member ran


class Cascade(PathNetwork):
    """Two networks with paths that share the work.

    Args:
        first: answers every input.
        second: answers those of which the first is not sure.
        threshold: least confidence of an answer of the first.
        blend: weight of the first one's logits, which are there anyway, beside those of the second.

    Raises:
        InvalidArgumentError: the two were not made from the same dense network.
    """

    threshold: Tensor
    blend: Tensor

    def __init__(
        self, first: PathNetwork, second: PathNetwork, threshold: float = 1.0, blend: float = 0.0
    ) -> None:
        super().__init__(joined(first.layout, second.layout))
        self.first = first
        self.second = second
        self.register_buffer("threshold", torch.tensor(threshold))
        self.register_buffer("blend", torch.tensor(blend))

    def forward(self, x: Tensor) -> GatedOutput:
        """Run on images ``[N, C, H, W]``, the second member only on those that need it.

        Raises:
            UnsupportedError: the first member answers with something else than logits ``[N, classes]``.
        """
        first = self.first(x)
        if not isinstance(first.logits, Tensor):
            raise UnsupportedError(
                f"the first network answers with a {type(first.logits).__name__}; a cascade compares one tensor of "
                "logits: wrap the network in one that gives its main output"
            )
        unsure = confidence(first.logits) < self.threshold
        ran = unsure.to(first.logits.dtype)[:, None]
        if torch.is_grad_enabled():  # attackers may ask what makes the first network unsure
            lacking = torch.logit(self.threshold.clamp(0, 1)) - log_odds(first.logits)
            ran = straight_through(ran, lacking[:, None])
        # A member that did not run says nothing of its filters: they were surely closed.
        closed = [ran.new_zeros(len(x), layer.filters) for layer in self.second.layout.layers]
        logits, codes, gate_logits, responses = first.logits, closed, [code - 0.5 for code in closed], closed
        if unsure.any():  # not every network takes an empty batch
            second = self.second(x[unsure])
            mixed = second.logits + self.blend * logits[unsure]
            if ran.requires_grad:  # nothing is added; what is more or less of it moves the choice
                mixed = mixed + (ran - ran.detach())[unsure] * (mixed - logits[unsure]).detach()
            (logits,) = _placed([mixed], unsure, [logits])
            codes = _placed(second.codes, unsure, codes)
            gate_logits = _placed(second.gate_logits, unsure, gate_logits)
            responses = _placed(second.responses, unsure, responses)
        path = (*first.codes, ran, *codes)
        return GatedOutput(
            logits=logits,
            codes=path,
            gate_logits=(*first.gate_logits, ran - 0.5, *gate_logits),
            responses=(*first.responses, ran, *responses),
            active_macs=self.active_macs(torch.cat(path, dim=1)),
        )

    @property
    def decides(self) -> tuple[bool, ...]:
        """As in `PathNetwork`; whether the second member runs is decided for each image."""
        return (*self.first.decides, True, *self.second.decides)


def confidence(logits: Tensor) -> Tensor:
    """How sure answers are, ``[N]``: the largest class probability of ``[N, classes]``."""
    return logits.softmax(1).amax(1)


def log_odds(logits: Tensor) -> Tensor:
    """The logit of `confidence`, ``[N]``, whose gradient does not fade where confidence is near 1."""
    top, own = logits.max(1, keepdim=True)
    others = logits.scatter(1, own, -torch.inf)
    return top[:, 0] - others.logsumexp(1)


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
    for each in second.followers:
        # Channels that no gate rules are there only if the member ran: each is one filter of that bit's.
        sources = (*moved(each.sources), *(ran,) * each.ungated)
        followers.append(replace(each, name=f"second.{each.name}", sources=sources, ungated=0))
    return PathLayout(
        layers=tuple(own),
        fixed_macs=first.fixed_macs,
        dense_macs=first.dense_macs,
        followers=tuple(followers),
    )


def threshold_for(sure: Tensor, first: Tensor, second: Tensor, budget: float) -> float:
    """The highest threshold at which a cascade keeps to the budget.

    Args:
        sure: ``[N]`` confidence of the first member's answers to images that neither member has seen, N at least 1.
        first: ``[N]`` cost of the first member for each of them, as a share of the dense MACs.
        second: ``[N]`` cost of the second.
        budget: share of the dense MACs that the images may cost on average.

    Returns:
        in the middle between two of the confidences, so that rounding turns the choice for none of these images, and
        exact in their precision; infinity if the second member may answer everything.

    Raises:
        InvalidArgumentError: the first member alone costs more.
    """
    alone = first.double().mean().item()
    if alone > budget:
        raise InvalidArgumentError(
            f"the first network costs {alone:.3f} of the dense MACs; the budget is {budget:.3f}: choose a larger "
            "budget or a smaller first network"
        )
    # Images of the same confidence go to the second member all or not at all, whatever each of them costs.
    found: tuple[Tensor, Tensor] = sure.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    confidences, place = found
    together = torch.zeros(len(confidences), dtype=torch.double).index_add(0, place, second.double())
    spent = alone + together.cumsum(0) / len(sure)
    affordable = int((spent <= budget).sum())
    if affordable == len(confidences):
        return math.inf
    return ((confidences[max(0, affordable - 1)] + confidences[affordable]) / 2).item()


def _placed(parts: Sequence[Tensor], where: Tensor, wholes: Sequence[Tensor]) -> list[Tensor]:
    """Tensors ``[N, ...]`` with the rows of ``parts`` where the second member ran."""
    return [whole.to(part.dtype).index_put((where,), part) for whole, part in zip(wholes, parts, strict=True)]
