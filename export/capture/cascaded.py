"""The stand-in for a cascade while it is captured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from penstock.export.operators import DOMAIN, ESCALATE, RESOLVE
from penstock.nn.cascade import Cascade, confidence
from penstock.nn.path_network import GatedOutput


class CapturedCascade(nn.Module):
    """Stands for a `Cascade`, whose second member a lowering may run for some images only.

    Args:
        cascade: what it stands for.
        first: stands for its first member.
        second: stands for its second member.
    """

    threshold: Tensor
    blend: Tensor

    def __init__(self, cascade: Cascade, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.register_buffer("threshold", cascade.threshold)
        self.register_buffer("blend", cascade.blend)

    def forward(self, x: Tensor) -> GatedOutput:
        """The results of `Cascade.forward`, the codes and gate logits of the second member joined."""
        first = self.first(x)
        unsure = confidence(first.logits) < self.threshold
        second = self.second(_node(ESCALATE, x, unsure, like=x))
        codes = torch.cat(second.codes, dim=1)
        gate_logits = torch.cat(second.gate_logits, dim=1)
        ran = unsure.to(x.dtype)[:, None]
        # Where this is read `ran` is 0, so it serves as zeros, which must not depend on a member that may not run.
        closed = ran.expand(-1, codes.shape[1])
        path = (*first.codes, ran, _node(RESOLVE, closed, codes, unsure, like=codes))
        gate_logits = _node(RESOLVE, closed - 0.5, gate_logits, unsure, like=codes)
        # What `Cascade` counts over the whole path, in the form that is constant where a member's path is. Of images
        # that only the first answers `ran` is 0.
        more = _node(RESOLVE, ran, second.active_macs, unsure, like=second.active_macs)
        active_macs = first.active_macs + more
        logits = _node(RESOLVE, first.logits, second.logits, unsure, like=first.logits)
        return GatedOutput(
            logits=logits + self.blend * ran * first.logits,
            codes=path,
            gate_logits=(*first.gate_logits, ran - 0.5, gate_logits),
            responses=path,
            active_macs=active_macs,
        )


def _node(kind: str, *inputs: Any, like: Tensor) -> Tensor:
    shape = tuple(like.shape)
    return torch.onnx.ops.symbolic(f"{DOMAIN}::{kind}", inputs, {}, dtype=like.dtype, shape=shape, version=1)
