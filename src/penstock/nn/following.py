"""Depthwise convolutions behind a gate: a channel that is not there needs no filter of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from penstock.nn.channels import Channels


class FollowingConv2d(nn.Module):
    """A depthwise convolution with its batch norm and activation, ruled by the gates of the channels that it reads.

    Filter ``j`` reads channel ``j // m`` alone, with ``m`` filters per channel, so it runs where that channel is
    there: ``z[j // m] * act(bn(conv(x)))``. The mask is needed again because bias and batch norm turn a channel of
    zeros into a constant.

    Args:
        conv: the depthwise convolution.
        norm: its batch norm, or an identity.
        activation: its activation, or an identity.
        channels: of its input.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, activation: nn.Module, channels: Channels) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.activation = activation
        self.channels = channels

    def forward(self, x: Tensor, *codes: Tensor) -> Tensor:
        """Run on ``x`` ``[N, C, H, W]`` with z ``[N, filters]`` of each gated segment of its channels, in order."""
        output: Tensor = self.activation(self.norm(self.conv(x)))
        return output * self._mask(codes).to(output.dtype)[:, :, None, None]

    def _mask(self, codes: Sequence[Tensor]) -> Tensor:
        """``[N, filters]``, 1 for channels that no gate rules."""
        rest = iter(codes)
        parts = []
        for layer, channels in self.channels:
            if layer is None:
                parts.append(codes[0].new_ones(codes[0].shape[0], channels))
            else:
                code = next(rest)
                parts.append(_repeated(code, channels // code.shape[1]))
        mask = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return _repeated(mask, self.conv.out_channels // self.conv.in_channels)


def _repeated(code: Tensor, times: int) -> Tensor:
    """``[N, C]`` with every column ``times`` times in a row."""
    return code if times == 1 else code.repeat_interleave(times, dim=1)
