"""Observers: gates that rule nothing and only say what they see.

A path that is the same for all inputs, as that of a static network is, tells nothing about an input; neither does a
dense network, which has no path. An observer is a gate at the end of a stage, the last map before the size changes:

    y = W2 relu(W1 norm(gap(x)) + b1) + b2,    z = 1[y > 0]        from the stage's output x

whose bits are part of the path and mask nothing, so the network's answers stay what they are to the last bit. What
observers say is learned on the finished network (`penstock.learn.observe`); what it costs is counted.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass, replace
from math import prod

from torch import Tensor, fx, nn

from penstock.errors import InvalidArgumentError, SurgeryError
from penstock.nn.cost import ActiveMacs
from penstock.nn.counting import node_macs
from penstock.nn.gates import Gate, GateConfig
from penstock.nn.operators import shape_of
from penstock.nn.planning import CLASSES, plan
from penstock.nn.surgery import GatedNetwork
from penstock.nn.tracing import trace
from penstock.paths import PathLayer, PathLayout

OBSERVERS = "observers"  # the module that holds them


@dataclass(frozen=True, kw_only=True)
class ObserverConfig:
    """Number and shape of a network's observers.

    Attributes:
        stages: how many stages have one, counted from the last; of a network with fewer, all.
        bits: of each observer.
        reduction: the hidden layer has ``channels / reduction`` units, as in a gate.
    """

    stages: int = 3
    bits: int = 16
    reduction: int = 4

    def __post_init__(self) -> None:
        for name in ("stages", "bits", "reduction"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(
                    f"ObserverConfig.{name} is {getattr(self, name)}; it must be at least 1"
                )


class Observer(nn.Module):
    """A gate whose code masks nothing.

    Args:
        channels: of the stage's output.
        config: its shape.
    """

    def __init__(self, channels: int, config: ObserverConfig) -> None:
        super().__init__()
        shape = GateConfig(reduction=config.reduction, normalize=True, initial_logit=0.0)
        self.gate = Gate(channels, config.bits, shape)
        self.bits = config.bits

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is recorded of ``x`` ``[N, C, H, W]``: z, y and, in the place of responses, z again."""
        code, logits = self.gate(x)
        return code, logits, code


def attach_observers(network: GatedNetwork, config: ObserverConfig) -> GatedNetwork:
    """Put observers on a network with gates, prototypes or neither (`unruled`).

    Args:
        network: it is copied, not changed.
        config: what to build.

    Raises:
        InvalidArgumentError: the network has observers, or a module of its own bears their name.
    """
    if hasattr(network.body, OBSERVERS):
        raise InvalidArgumentError(
            f"the network has a module named {OBSERVERS!r} already: observe the network as it was before"
        )
    network = copy.deepcopy(network)
    graph = network.body.graph
    observed = stage_ends(network)[-config.stages :]
    observers = [Observer(shape_of(node)[1], config) for node in observed]
    network.body.add_module(OBSERVERS, nn.ModuleList(observers))
    records, layers, macs = [], [], 0
    for index, (node, observer) in enumerate(zip(observed, observers, strict=True)):
        name = f"{OBSERVERS}.{index}"
        with graph.inserting_after(node):
            call = graph.call_module(name, (node,))
        with graph.inserting_after(call):
            records.append(tuple(graph.call_function(operator.getitem, (call, part)) for part in range(3)))
        layers.append(PathLayer(name=name, filters=config.bits, macs=0, observes=True))
        macs += observer.gate.macs + prod(shape_of(node)[1:])
    output = next(node for node in graph.nodes if node.op == "output")
    logits, known, *rest = output.args[0]
    output.args = ((logits, (*known, *records), *rest),)
    graph.lint()
    network.body.recompile()
    layout = network.layout
    network.layout = replace(layout, layers=(*layout.layers, *layers), fixed_macs=layout.fixed_macs + macs)
    network.active_macs = ActiveMacs(network.layout)
    example = next(network.parameters())
    return network.to(example.device).train(network.training)


def unruled(dense: nn.Module, example: Tensor) -> GatedNetwork:
    """A dense network as one with paths that has no gates and answers nobody until it gets observers.

    Args:
        dense: it is copied, not changed.
        example: one input, ``[1, C, H, W]``.

    Raises:
        SurgeryError: it cannot be traced, or holds an operator of unknown cost.
    """
    body = trace(dense, example)
    modules = dict(body.named_modules())
    macs = sum(node_macs(node, modules) for node in body.graph.nodes)
    report = tuple(plan(body.graph, modules, None).report)
    output = next(node for node in body.graph.nodes if node.op == "output")
    output.args = ((output.args[0], ()),)
    body.graph.lint()
    body.recompile()
    layout = PathLayout(layers=(), fixed_macs=macs, dense_macs=macs)
    return GatedNetwork(body, layout, tuple(finding for finding in report if not finding.gated)).eval()


def stage_ends(network: GatedNetwork) -> list[fx.Node]:
    """The last map ``[N, C, H, W]`` of each size, in order: behind the first convolution and before the classifier.

    Raises:
        SurgeryError: there is none.
    """
    ends: dict[tuple[int, ...], fx.Node] = {}
    begun = False
    for node in network.body.graph.nodes:
        if node.target in {finding.name for finding in network.report if finding.reason == CLASSES}:
            break
        shape = shape_of(node)
        if begun and len(shape) == 4 and prod(shape[2:]) > 1:
            ends[shape[2:]] = node
        begun = begun or (node.op == "call_module" and node.target == network.report[0].name)
    if not ends:
        raise SurgeryError(
            "the network has no map between its first convolution and its classifier to observe"
        )
    return list(ends.values())


def observers_of(network: GatedNetwork) -> tuple[Observer, ...]:
    """The observers of a network, in path order."""
    return tuple(getattr(network.body, OBSERVERS, ()))
