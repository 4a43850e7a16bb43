"""The module that is captured: every exported model has these inputs and outputs, whatever its lowering.

in   images         FP32  [N, C, H, W]   0..1
out  logits         FP32  [N, classes]
out  path           UINT8 [N, P]         0 or 1, in the order of the layout
out  active_macs    FP32  [N, 1]         share of the dense MACs that the path asks for
out  anomaly_score  FP32  [N, 1]         larger is stranger
out  adversarial    BOOL  [N, 1]         score > threshold
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from penstock.errors import UnsupportedError
from penstock.nn.path_network import PathNetwork
from penstock.paths import PathLayout


class Answer(NamedTuple):
    """Outputs of an exported model, in order; the field names are the tensors' names."""

    logits: Tensor
    path: Tensor
    active_macs: Tensor
    anomaly_score: Tensor
    adversarial: Tensor


class ServedModel(nn.Module):
    """A network with paths and its detector, as it will be served.

    Args:
        network: the network with paths.
        head: computes the score ``[N, 1]`` from ``(logits, path float, gate logits)``; ``None``: the score is 0.
    """

    threshold: Tensor

    def __init__(self, network: PathNetwork, head: nn.Module | None) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.watched = network.layout.watched
        # Never flags until a calibration has set it. Infinity is no threshold: this is the largest number.
        self.register_buffer("threshold", torch.tensor(torch.finfo(torch.float32).max))

    def forward(self, images: Tensor) -> Answer:
        """Answer for ``[N, C, H, W]`` float32 in 0..1."""
        output = self.network(images)
        if not isinstance(output.logits, Tensor):
            raise UnsupportedError(
                f"the network returns a {type(output.logits).__name__}; only one tensor [N, classes] can be served: "
                "wrap the network in a module that returns its logits, and attach gates to that"
            )
        codes = torch.cat(output.codes, dim=1)
        if self.head is None:
            score = images.new_zeros((images.shape[0], 1))
        else:
            logits = torch.cat(output.gate_logits, dim=1)
            score = self.head(output.logits, codes[:, self.watched], logits[:, self.watched])
            # Paths may be the same for all images; logits that are no numbers make a score that is none either.
            score = score + 0 * output.logits.sum(dim=1, keepdim=True)
        # Not `score > threshold`: a broken image, NaN or beyond all bounds, has the score NaN and must be flagged.
        flag = torch.logical_not(score <= self.threshold)
        return Answer(output.logits, codes.to(torch.uint8), output.active_macs, score, flag)


class DenseModel(nn.Module):
    """A network without gates under the same contract: its path is all ones and it never flags.

    Args:
        network: the dense network.
        layout: of the gated network that it is compared with, for the length of the path.
    """

    def __init__(self, network: nn.Module, layout: PathLayout) -> None:
        super().__init__()
        self.network = network
        self.bits = layout.bits

    def forward(self, images: Tensor) -> Answer:
        """Answer for ``[N, C, H, W]`` float32 in 0..1."""
        count = images.shape[0]
        one = images.new_ones((count, 1))
        path = torch.ones((count, self.bits), dtype=torch.uint8, device=images.device)
        return Answer(self.network(images), path, one, one * 0, one < 0)
