r"""Routers, and the convolutions that they rule.

For stage ``s`` with prototypes ``B_s`` in ``{0, 1}^{K x P_s}`` and input ``x``:

    r = W2 relu(W1 norm(gap(x)) + b1) + b2      ``[N, K]``
    k = argmax r                                the prototype that runs
    z = B_s[k]                                  codes of all layers of the stage

In training the choice is Gumbel-softmax (Jang et al., 2017, https://arxiv.org/abs/1611.01144), with noise ``g`` while
`StageRouter.noise` is on and without it later:

    p = softmax(r + g)
    z = B_s[argmax p]                           forward: exact bits
    z = p B_s                                   backward

Outside of training ``g`` is 0 and the gradient is the same, so that an attack on the network sees through the routers,
as it does through gates.

Batch norm folds into its convolution, so a prototype may own its batch norms at no cost (Yu et al., *Slimmable Neural
Networks*, 2019, https://arxiv.org/abs/1812.08928, section 3): the statistics behind few filters are not those behind
many.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Route(NamedTuple):
    """What a stage's router decides.

    Attributes:
        codes: z of each layer of the stage, ``[N, filters]``.
        soft_codes: the codes expected under the router's probabilities, less 1/2, ``p B - 1/2``, ``[N, filters]``:
            above 0, as a gate's logits, where a filter is more likely open than closed.
        chosen: ``[N]`` int64, the prototype that runs.
        logits: r, ``[N, K]`` float32.
    """

    codes: tuple[Tensor, ...]
    soft_codes: tuple[Tensor, ...]
    chosen: Tensor
    logits: Tensor


class StageRouter(nn.Module):
    """Picks one of a stage's prototypes for each input.

    Args:
        in_channels: channels of the stage's input.
        filters: of each gated layer of the stage.
        count: K, number of prototypes.
        hidden: units of the hidden layer.

    Attributes:
        prototypes: ``B_s``, ``[K, P_s]``.
        noise: whether the choice is random in training.
    """

    prototypes: Tensor

    def __init__(self, in_channels: int, filters: Sequence[int], count: int, hidden: int) -> None:
        super().__init__()
        self.filters = list(filters)
        self.count = count
        self.noise = True
        self.register_buffer("prototypes", torch.ones(count, sum(filters)))
        if count > 1:  # weights without a gradient would hold up devices that train together
            self.normalize = nn.BatchNorm1d(in_channels, affine=False)
            self.reduce = nn.Linear(in_channels, hidden)
            self.expand = nn.Linear(hidden, count)

    @property
    def macs(self) -> int:
        """MACs of the two linear layers for one input; none where there is nothing to choose."""
        return 0 if self.count == 1 else self.reduce.weight.numel() + self.expand.weight.numel()

    def forward(self, x: Tensor) -> Route:
        """Decide for ``x`` ``[N, C, H, W]``."""
        logits = self._logits(x)
        weights = self._pick(logits)
        codes = torch.split(weights @ self.prototypes, self.filters, 1)
        soft_codes = torch.split(logits.softmax(1) @ self.prototypes - 0.5, self.filters, 1)
        return Route(codes, soft_codes, weights.argmax(1), logits)

    def _logits(self, x: Tensor) -> Tensor:
        if self.count == 1:  # nothing to choose
            return x.new_zeros(len(x), 1, dtype=torch.float32)
        pooled = x.mean(dim=(2, 3))
        logits: Tensor = self.expand(torch.relu(self.reduce(self.normalize(pooled))))
        return logits.float()

    def _pick(self, logits: Tensor) -> Tensor:
        """One-hot choice ``[N, K]``, exactly 0 and 1, with the gradient of the softmax."""
        if self.training and self.noise and self.count > 1:
            logits = logits - torch.empty_like(logits).exponential_().log()  # Gumbel noise
        hard = F.one_hot(logits.argmax(1), self.count).to(logits.dtype)
        if not torch.is_grad_enabled():
            return hard
        soft = logits.softmax(1)
        return hard + (soft - soft.detach())


class RoutedNorm(nn.Module):
    """One batch norm per prototype.

    Args:
        norm: the batch norm that all start as.
        count: number of prototypes.
    """

    def __init__(self, norm: nn.BatchNorm2d, count: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(count))

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Normalise each of ``x`` ``[N, C, H, W]`` as its prototype ``chosen`` ``[N]`` does."""
        order = chosen.argsort(stable=True)
        sizes = torch.bincount(chosen, minlength=len(self.norms)).tolist()
        groups = torch.split(x[order], sizes)
        # Norms of empty groups run too, which costs nothing: devices that train together wait for their gradients.
        done = [
            _normalized(cast(nn.BatchNorm2d, norm), group)
            for norm, group in zip(self.norms, groups, strict=True)
        ]
        return torch.cat(done)[order.argsort()]


def _normalized(norm: nn.BatchNorm2d, group: Tensor) -> Tensor:
    """The batch norm of a group, which in training may be a single value per channel: that one has no variance."""
    if norm.training and group.numel() == norm.num_features:
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(group, mean, variance, norm.weight, norm.bias, eps=norm.eps)
    normalized: Tensor = norm(group)
    return normalized


class RoutedConv2d(nn.Module):
    """A convolution with its batch norm and activation, ruled by its stage's router: ``z * act(bn(conv(x)))``.

    Args:
        conv: the convolution.
        norm: its batch norm, a `RoutedNorm`, or ``nn.Identity()``.
        activation: its activation, or ``nn.Identity()``.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.activation = activation

    def forward(
        self, x: Tensor, code: Tensor, soft_code: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run on ``x`` ``[N, C, H, W]``; the results are those of `GatedConv2d`."""
        output = self.conv(x)
        output = self.norm(output, chosen) if isinstance(self.norm, RoutedNorm) else self.norm(output)
        output = self.activation(output)
        mask = code.to(output.dtype)[:, :, None, None]
        return output * mask, code, soft_code, output.mean(dim=(2, 3))
