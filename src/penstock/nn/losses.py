"""The terms that a decoupled network is trained with.

With z the codes, y the label, o the responses (unmasked output of a layer, averaged over space), and C the filters
of layer l (Li et al., ECCV 2020, section 3, in the form of their released code):

    L = CE(f(x), y) + lambda_m sum_l CE(W_l z_l, y) + lambda_k sum_l KL(softmax(o_l) || softmax(z_l)) / C_l
        + lambda_s S

- the second term is the variational bound on the mutual information between path and class: the better a linear
  classifier ``W_l`` reads the class from z, the more z says about it;
- the third aligns which filters are chosen with which respond; o is the target and gets no gradient (the release
  lets the gradient move the features too);
- S is either the release's sparsity, sum_l | mean_n ||z||_1 - target C_l |, or ours, the *budget*: it steers the
  MACs that paths really cost, gates included, instead of counting filters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearProbes(nn.Module):
    """One linear classifier without bias per gated layer, ``W_l``, that tells the class from the layer's code.

    Args:
        filters: number of filters of each layer.
        classes: number of classes.
    """

    def __init__(self, filters: Sequence[int], classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(count, classes, bias=False) for count in filters)

    def forward(self, codes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Sum over layers of the cross-entropy: minus the mutual information bound, up to the entropy of y."""
        losses = [F.cross_entropy(head(code), labels) for head, code in zip(self.heads, codes, strict=True)]
        return torch.stack(losses).sum()


def alignment(codes: Sequence[Tensor], responses: Sequence[Tensor]) -> Tensor:
    """``sum_l KL(softmax(o_l) || softmax(z_l)) / C_l``, mean over the batch; ``[N, filters]`` each."""
    terms = [
        F.kl_div(F.log_softmax(code, 1), F.softmax(response.detach().float(), 1), reduction="batchmean")
        / code.shape[1]
        for code, response in zip(codes, responses, strict=True)
    ]
    return torch.stack(terms).sum()


def sparsity(codes: Sequence[Tensor], target: float) -> Tensor:
    """``sum_l | mean_n ||z_n||_1 - target C_l |``: steers how many filters of every layer are open on average."""
    return torch.stack([(code.mean() - target).abs() * code.shape[1] for code in codes]).sum()


def budget(active: Tensor, target: float) -> Tensor:
    """``| mean(active) - target |``: steers the mean share of MACs, ``active`` ``[N, 1]``, to the target."""
    return (active.mean() - target).abs()


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` of softened logits (Hinton et al., 2015, https://arxiv.org/abs/1503.02531)."""
    loss = F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return loss * temperature**2
