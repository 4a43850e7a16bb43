"""A network that answers the same and computes less: for attacks, which ask one network a million times.

A network with one prototype masks what it has computed (`penstock.nn.static`), every layer averages its output for
losses that only training has, and batch norms could be part of their convolutions. Without all that an answer and its
gradient are the same to rounding; on the zoo's cascades they take less than half the time.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from penstock.nn.cascade import Cascade
from penstock.nn.path_network import PathNetwork
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.static import StaticConv2d, compact


def lean(network: PathNetwork) -> PathNetwork:
    """The network without the work that no answer needs, in evaluation mode; its responses mean nothing.

    Args:
        network: it is not changed; one with gates or several prototypes is given back as it is.
    """
    if isinstance(network, Cascade):
        first, second = lean(network.first), lean(network.second)
        return Cascade(first, second, network.threshold.item(), network.blend.item()).eval()
    if not isinstance(network, ConsolidatedNetwork) or network.config.count != 1:
        return network
    small = compact(network, responds=False).eval()
    for module in small.modules():
        if isinstance(module, StaticConv2d) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv, module.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
    return small
