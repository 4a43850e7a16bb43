"""Static paths without the work that they leave out: for training one prototype at its own cost.

A network with a single prototype masks what a smaller convolution need not compute. `compact` puts that smaller
convolution in its place: it has the open filters only, reads the open input channels only, and writes its results to
their places among zeros. The function is the same to rounding. `write_back` brings what it learned home.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.routing import RoutedConv2d


class StaticConv2d(nn.Module):
    """A `RoutedConv2d` that has one path for all inputs.

    Args:
        routed: what it computes the same as.
        filters: indices of the open filters.
        channels: indices of the input channels that may differ from zero.
        responds: whether anybody wants responses; if not, codes stand in their place.
    """

    filters: Tensor
    channels: Tensor

    def __init__(
        self, routed: RoutedConv2d, filters: Tensor, channels: Tensor, *, responds: bool = True
    ) -> None:
        super().__init__()
        self.responds = responds
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("channels", channels, persistent=False)
        self.out_channels = routed.conv.out_channels
        self.whole = len(channels) == routed.conv.in_channels
        self.conv = copy.deepcopy(routed.conv)
        self.norm = copy.deepcopy(routed.norm)
        self.activation = routed.activation
        self.conv.in_channels, self.conv.out_channels = len(channels), len(filters)
        if isinstance(self.norm, nn.BatchNorm2d):
            self.norm.num_features = len(filters)
        for module in (self.conv, self.norm):
            for tensor in module.state_dict(keep_vars=True).values():
                tensor.data = tensor.data[self.place(tensor)].clone()

    def place(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Where in a tensor of the routed convolution or its batch norm those of this one stand."""
        if whole.ndim == 4:
            return self.filters[:, None], self.channels[None, :]
        return (self.filters,) if whole.ndim else ()

    def forward(
        self, x: Tensor, code: Tensor, soft_code: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run on ``x`` ``[N, C, H, W]``; the results are those of `RoutedConv2d`, the response only where open."""
        entering = x if self.whole else x[:, self.channels]
        part = self.activation(self.norm(self.conv(entering)))
        response = self._spread(part.mean((2, 3))) if self.responds else code
        return self._spread(part), code, soft_code, response

    def _spread(self, part: Tensor) -> Tensor:
        """``[N, filters, ...]``: the open ones in their places among zeros."""
        if len(self.filters) == self.out_channels:
            return part
        whole = part.new_zeros(len(part), self.out_channels, *part.shape[2:])
        return whole.index_copy(1, self.filters, part)


def compact(network: ConsolidatedNetwork, *, responds: bool = True) -> ConsolidatedNetwork:
    """A copy of a network with one prototype that computes only the open filters.

    Args:
        network: with observers or without.
        responds: whether the copy's responses are wanted.

    Raises:
        InvalidArgumentError: the network has several prototypes.
    """
    if network.config.count != 1:
        raise InvalidArgumentError(f"the network has {network.config.count} prototypes; one can be static")
    small = copy.deepcopy(network)
    path = torch.cat([router.prototypes[0] for router in network.routers]).bool()
    codes = [path[part] for part in network.layout.slices]
    for own, layer in zip(codes, network.layout.layers, strict=True):
        routed = cast(RoutedConv2d, network.body.get_submodule(layer.name))
        if layer.observes or isinstance(routed, StaticConv2d):
            continue
        # Behind a concatenation the layout does not say which channel is whose: all of them are read there.
        alone = len(layer.sources) == 1 and not layer.ungated
        entering = codes[layer.sources[0]] if alone else path.new_ones(routed.conv.in_channels)
        plain = routed.conv.groups == 1 and not list(routed.activation.parameters())
        if plain and own.any() and entering.any():
            module = StaticConv2d(routed, own.nonzero()[:, 0], entering.nonzero()[:, 0], responds=responds)
            small.body.set_submodule(layer.name, module)
    return small


@torch.no_grad()
def write_back(small: ConsolidatedNetwork, network: ConsolidatedNetwork) -> None:
    """Give ``network`` what ``small``, which `compact` made of it, has learned.

    Weights that no path uses become zeros, which take no room in a checkpoint.
    """
    static = {
        f"{name}.": module for name, module in small.named_modules() if isinstance(module, StaticConv2d)
    }
    target = network.state_dict()
    for name, learned in small.state_dict().items():
        module = next((module for prefix, module in static.items() if name.startswith(prefix)), None)
        whole = target[name]
        if module is None:
            whole.copy_(learned)
        else:
            if whole.ndim == 4:
                whole.zero_()
            whole[module.place(whole)] = learned
