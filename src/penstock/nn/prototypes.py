"""Prototypes: whole stages of a network share a few fixed paths, and a router picks one at the stage's entrance.

Gates decide layer by layer. *Consolidated*, a network keeps for each stage only ``K`` **prototype** paths and, in the
place of all the stage's gates, a **router** that reads the stage's input (`penstock.nn.routing` has the formulas). A
prototype is a static network, so it runs at full dense efficiency. ``K = 1`` has no router and is ordinary static
pruning.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import NamedTuple, cast

import torch
from torch import Tensor, fx, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.gates import GatedConv2d
from penstock.nn.operators import shape_of, tensor_input
from penstock.nn.routing import Route, RoutedConv2d, RoutedNorm, StageRouter
from penstock.nn.surgery import GatedNetwork
from penstock.paths import PathLayout


@dataclass(frozen=True, kw_only=True)
class PrototypeConfig:
    """Shape of a consolidated network.

    Attributes:
        count: K, prototypes of each stage.
        stages: how many gated layers each stage has, in network order; see `stages_by_size`.
        own_norms: every prototype has batch norms of its own.
        hidden: units of a router's hidden layer.
    """

    count: int
    stages: tuple[int, ...]
    own_norms: bool = True
    hidden: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))  # a list, where it was read from a file
        if self.count < 1 or self.hidden < 1:
            raise InvalidArgumentError(
                f"count is {self.count} and hidden {self.hidden}; both must be positive"
            )
        if not self.stages or min(self.stages) < 1:
            raise InvalidArgumentError(f"stages are {self.stages}; each needs at least one gated layer")


class ConsolidatedOutput(NamedTuple):
    """What a consolidated network answers: the fields of `GatedOutput`, and the routers' logits.

    Attributes:
        logits: the original network's output.
        codes: z of each gated layer, ``[N, filters]``.
        gate_logits: how strongly each filter was favoured, in the place of y, ``[N, filters]``.
        responses: unmasked output of each gated layer averaged over space, ``[N, filters]``.
        active_macs: share of the dense network's MACs that the codes ask for, ``[N, 1]``.
        router_logits: r of each stage, ``[N, K]``.
    """

    logits: Tensor
    codes: tuple[Tensor, ...]
    gate_logits: tuple[Tensor, ...]
    responses: tuple[Tensor, ...]
    active_macs: Tensor
    router_logits: tuple[Tensor, ...]


class ConsolidatedNetwork(GatedNetwork):
    """A gated network whose stages have routers in the place of gates."""

    def __init__(self, network: GatedNetwork, layout: PathLayout, config: PrototypeConfig) -> None:
        super().__init__(network.body, layout, network.report)
        self.config = config

    def forward(self, x: Tensor) -> ConsolidatedOutput:  # type: ignore[override]
        """Run on images ``[N, C, H, W]``."""
        logits, records, router_logits = self.body(x)
        codes, gate_logits, responses = zip(*records, strict=True)
        active = self.active_macs(torch.cat(codes, dim=1))
        return ConsolidatedOutput(logits, codes, gate_logits, responses, active, router_logits)

    @property
    def routers(self) -> tuple[StageRouter, ...]:
        """One per stage, in network order."""
        return tuple(cast(nn.ModuleList, self.body.routers))  # type: ignore[arg-type]

    @property
    def decides(self) -> tuple[bool, ...]:
        """As in `PathNetwork`; with one prototype there is nothing to choose."""
        ruled = [router.count > 1 for router in self.routers for _ in router.filters]
        return (*ruled, *(False,) * (len(self.layout.layers) - len(ruled)))


def stages_by_size(network: GatedNetwork) -> tuple[int, ...]:
    """How many gated layers follow each other without a change of the size of what they write."""
    sizes = [shape_of(_output(_call(network, layer.name)))[2:] for layer in network.layout.layers]
    starts = [0, *(index for index, (a, b) in enumerate(pairwise(sizes), 1) if a != b), len(sizes)]
    return tuple(b - a for a, b in pairwise(starts))


def attach_prototypes(network: GatedNetwork, config: PrototypeConfig) -> ConsolidatedNetwork:
    """Put routers in the place of gates; all prototypes are all ones until `set_prototypes`.

    Args:
        network: a gated network as `attach_gates` gives it; it is copied, not changed.
        config: what to build; its stages must cover the network's gated layers.

    Raises:
        InvalidArgumentError: they do not, the network has prototypes already, or a module of its own bears the
            routers' name.
    """
    _refuse_misfit(network, config)
    layers = network.layout.layers
    network = copy.deepcopy(network)
    gates = routers = start = 0
    network.body.routers = nn.ModuleList()
    said = []
    for index, length in enumerate(config.stages):
        stage = layers[start : start + length]
        calls = [_call(network, layer.name) for layer in stage]
        channels = shape_of(tensor_input(calls[0]))[1]
        router = StageRouter(channels, [layer.filters for layer in stage], config.count, config.hidden)
        network.body.routers.append(router)
        gates += sum(_gated(network.body, call).gate.macs + _pooling_macs(call) for call in calls)
        if config.count > 1:
            routers += router.macs + _pooling_macs(calls[0])
        said.append(_rewire(network.body, f"routers.{index}", calls, config))
        start += length
    output = next(node for node in network.body.graph.nodes if node.op == "output")
    output.args = ((*output.args[0], tuple(said)),)
    network.body.graph.lint()
    network.body.recompile()
    layout = replace(network.layout, fixed_macs=network.layout.fixed_macs - gates + routers)
    example = next(network.parameters())
    return ConsolidatedNetwork(network, layout, config).to(example.device).train(network.training)


def set_prototypes(network: ConsolidatedNetwork, bits: Sequence[Tensor]) -> None:
    """Give each stage its prototypes, ``[K, P_s]``, 0 or 1.

    Raises:
        InvalidArgumentError: other stages, shapes or values.
    """
    if len(bits) != len(network.routers):
        raise InvalidArgumentError(
            f"prototypes of {len(bits)} stages; the network has {len(network.routers)}"
        )
    for router, own in zip(network.routers, bits, strict=True):
        if own.shape != router.prototypes.shape:
            raise InvalidArgumentError(
                f"prototypes of shape {tuple(own.shape)}; this stage needs {tuple(router.prototypes.shape)}"
            )
        if not ((own == 0) | (own == 1)).all():
            raise InvalidArgumentError(
                "prototypes hold other values than 0 and 1; a filter is closed or open"
            )
        router.prototypes.copy_(own)


def _refuse_misfit(network: GatedNetwork, config: PrototypeConfig) -> None:
    if isinstance(network, ConsolidatedNetwork):
        raise InvalidArgumentError("the network has prototypes already: start from the gated one")
    if any(layer.observes for layer in network.layout.layers):
        raise InvalidArgumentError(
            "the network has observers: give prototypes to the network as it was before"
        )
    if hasattr(network.body, "routers"):
        raise InvalidArgumentError(
            "the network has a module or tensor named 'routers', where prototypes put theirs: give it another name"
        )
    layers = len(network.layout.layers)
    if sum(config.stages) != layers:
        raise InvalidArgumentError(
            f"stages {config.stages} hold {sum(config.stages)} gated layers; the network has {layers}"
        )


def _call(network: GatedNetwork, name: str) -> fx.Node:
    """The node that runs a gated layer."""
    nodes: Iterable[fx.Node] = network.body.graph.nodes
    return next(node for node in nodes if node.op == "call_module" and node.target == name)


def _output(call: fx.Node) -> fx.Node:
    """The node of a gated layer's masked output."""
    return next(user for user in call.users if user.args[1] == 0)


def _gated(body: fx.GraphModule, call: fx.Node) -> GatedConv2d:
    return cast(GatedConv2d, body.get_submodule(str(call.target)))


def _pooling_macs(call: fx.Node) -> int:
    """What it costs to average the input of a layer over space."""
    return prod(shape_of(tensor_input(call))[1:])


def _rewire(body: fx.GraphModule, router: str, calls: Sequence[fx.Node], config: PrototypeConfig) -> fx.Node:
    """Let the stage's layers take their codes from a router that reads what the first of them reads.

    Returns:
        the node that holds the router's logits.
    """
    graph = body.graph
    with graph.inserting_before(calls[0]):
        route = graph.call_module(router, (tensor_input(calls[0]),))
        codes, soft_codes, chosen, logits = (
            graph.call_function(operator.getitem, (route, part)) for part in range(len(Route._fields))
        )
        for index, call in enumerate(calls):
            gated = _gated(body, call)
            norm = gated.norm
            if config.own_norms and config.count > 1 and isinstance(norm, nn.BatchNorm2d):
                norm = RoutedNorm(norm, config.count)
            body.set_submodule(str(call.target), RoutedConv2d(gated.conv, norm, gated.activation))
            code = graph.call_function(operator.getitem, (codes, index))
            soft_code = graph.call_function(operator.getitem, (soft_codes, index))
            call.args = (*call.args, code, soft_code, chosen)
    return logits
