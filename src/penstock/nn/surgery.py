"""Surgery: put gates into a trained network.

`attach_gates` traces a module with ``torch.fx``, finds the groups conv -> (batch norm) -> (ReLU), and replaces each
by one `GatedConv2d` that keeps the trained weights. With all gates open the result equals the original network. The
given module is left as it was. Every convolution appears in the report: gated, or left alone and why.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from penstock.errors import SurgeryError
from penstock.nn.cost import ActiveMacs, conv_macs, node_macs, shape_of
from penstock.nn.gates import Gate, GateConfig, GatedConv2d
from penstock.paths import PathLayer, PathLayout

Where = Callable[[str, nn.Conv2d], bool]

# A closed channel, all zeros, stays all zeros through these, so the next convolution may skip it.
ZERO_PRESERVING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ReLU, nn.Dropout, nn.Identity)


class GatedOutput(NamedTuple):
    """What a gated network answers.

    Attributes:
        logits: the original network's output.
        codes: z of each gated layer, ``[N, filters]``.
        gate_logits: y of each gated layer, ``[N, filters]``.
        responses: unmasked output of each gated layer averaged over space, ``[N, filters]``.
        active_macs: share of the dense network's MACs that the codes ask for, ``[N, 1]``.
    """

    logits: Tensor
    codes: tuple[Tensor, ...]
    gate_logits: tuple[Tensor, ...]
    responses: tuple[Tensor, ...]
    active_macs: Tensor


@dataclass(frozen=True)
class Finding:
    """One line of the surgery report: a convolution, whether it got a gate, and if not, why."""

    name: str
    gated: bool
    reason: str = ""


class GatedNetwork(nn.Module):
    """A network whose convolutions are ruled by gates.

    Attributes:
        body: the traced network; gives its output and the four records of every gated layer.
        layout: order, size and cost of the gated layers.
        report: what surgery found.
    """

    def __init__(self, body: fx.GraphModule, layout: PathLayout, report: tuple[Finding, ...]) -> None:
        super().__init__()
        self.body = body
        self.layout = layout
        self.report = report
        self.active_macs = ActiveMacs(layout)

    @property
    def gated_layers(self) -> tuple[GatedConv2d, ...]:
        """The gated convolutions in path order."""
        return tuple(self.body.get_submodule(layer.name) for layer in self.layout.layers)  # type: ignore[misc]

    def forward(self, x: Tensor) -> GatedOutput:
        """Run on images ``[N, C, H, W]``."""
        logits, records = self.body(x)
        codes, gate_logits, responses = zip(*records, strict=True)
        return GatedOutput(logits, codes, gate_logits, responses, self.active_macs(torch.cat(codes, dim=1)))


def attach_gates(
    model: nn.Module,
    example: Tensor,
    config: GateConfig | None = None,
    where: Where | None = None,
) -> GatedNetwork:
    """Put a gate on every convolution but the first.

    Args:
        model: a trained network that ``torch.fx`` can trace; it is copied, not changed.
        example: one input, ``[1, C, H, W]``, from which sizes are learned.
        config: shape and start of the gates.
        where: called with a convolution's qualified name and the module; gates go where it says True. Default: all
            but the first convolution, which sees the image itself, as in the paper's release.

    Raises:
        SurgeryError: the model cannot be traced, holds an operator of unknown cost, or has nothing to gate.
    """
    body = _trace(model, example)
    modules = dict(body.named_modules())
    dense_macs = sum(node_macs(node, modules) for node in body.graph.nodes)
    surgeon = _Surgeon(body, config or GateConfig(), where)
    for node in list(body.graph.nodes):
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d):
            surgeon.treat(node)
    if not surgeon.layers:
        reasons = "; ".join(f"{finding.name}: {finding.reason}" for finding in surgeon.report)
        raise SurgeryError(f"no convolution could be gated ({reasons or 'the network has none'})")
    surgeon.finish()
    gated_macs = sum(layer.macs for layer in surgeon.layers)
    layout = PathLayout(
        layers=tuple(surgeon.layers),
        fixed_macs=dense_macs - gated_macs + surgeon.gate_macs,
        dense_macs=dense_macs,
    )
    network = GatedNetwork(body, layout, tuple(surgeon.report))
    return network.to(example.device).train(model.training)


class _Surgeon:
    """Works through the convolutions of one traced graph, in order."""

    def __init__(self, body: fx.GraphModule, config: GateConfig, where: Where | None) -> None:
        self.body = body
        self.config = config
        self.where = where
        self.layers: list[PathLayer] = []
        self.report: list[Finding] = []
        self.gate_macs = 0
        self._records: list[tuple[fx.Node, fx.Node, fx.Node]] = []
        self._owner: dict[fx.Node, int] = {}  # masked output of a gated layer -> its index
        self._uses: dict[str, int] = {}
        for node in body.graph.nodes:
            if node.op == "call_module":
                self._uses[str(node.target)] = self._uses.get(str(node.target), 0) + 1

    def treat(self, node: fx.Node) -> None:
        """Gate the convolution at ``node``, or note why not."""
        name = str(node.target)
        conv = self.body.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        reason = self._why_not(name, conv)
        self.report.append(Finding(name, not reason, reason))
        if reason:
            return
        norm, after_norm = self._absorb(node, nn.BatchNorm2d)
        activation, last = self._absorb(after_norm, nn.ReLU)
        gate = Gate(conv.in_channels, conv.out_channels, self.config)
        entering = shape_of(node.all_input_nodes[0])
        self.gate_macs += gate.macs + entering[1] * entering[2] * entering[3]
        self.layers.append(
            PathLayer(
                name=name,
                filters=conv.out_channels,
                macs=conv_macs(conv, shape_of(node)),
                source=self._source(node.all_input_nodes[0]),
            )
        )
        self._replace(node, last, GatedConv2d(conv, norm, activation, gate))

    def finish(self) -> None:
        """Let the graph return every gated layer's records beside its output."""
        output = next(node for node in self.body.graph.nodes if node.op == "output")
        output.args = ((output.args[0], tuple(self._records)),)
        self.body.delete_all_unused_submodules()
        self.body.graph.lint()
        self.body.recompile()

    def _why_not(self, name: str, conv: nn.Conv2d) -> str:
        if self.where is not None and not self.where(name, conv):
            return "not chosen"
        if self.where is None and not self.report:
            return "first convolution: it sees the image itself"
        if conv.groups != 1:
            return f"grouped convolution ({conv.groups} groups)"
        if self._uses[name] > 1:
            return f"shared: called {self._uses[name]} times"
        return ""

    def _absorb(self, node: fx.Node, kind: type[nn.Module]) -> tuple[nn.Module, fx.Node]:
        """The module of ``kind`` that alone reads ``node``, and its node; else an identity and ``node`` itself."""
        users = list(node.users)
        if len(users) != 1:
            return nn.Identity(), node
        user = users[0]
        if user.op == "call_module" and isinstance(self.body.get_submodule(str(user.target)), kind):
            module = self.body.get_submodule(str(user.target))
            # A ReLU holds nothing, so a shared one may be absorbed; a shared batch norm holds statistics of others.
            if self._uses[str(user.target)] == 1 or kind is nn.ReLU:
                return (nn.ReLU() if kind is nn.ReLU else module), user
        method = user.op == "call_method" and user.target == "relu"
        if kind is nn.ReLU and (method or user.target in (F.relu, torch.relu)):
            return nn.ReLU(), user
        return nn.Identity(), node

    def _source(self, node: fx.Node) -> int | None:
        """The gated layer whose closed filters are zeros at ``node``, if there is one."""
        while node not in self._owner:
            preserving = node.op == "call_module" and isinstance(
                self.body.get_submodule(str(node.target)), ZERO_PRESERVING
            )
            if not preserving:
                return None
            node = node.all_input_nodes[0]
        return self._owner[node]

    def _replace(self, first: fx.Node, last: fx.Node, module: GatedConv2d) -> None:
        name = str(first.target)
        self.body.set_submodule(name, module)
        graph = self.body.graph
        with graph.inserting_after(last):
            call = graph.call_module(name, args=first.args)
        nodes = []
        after = call
        for index in range(4):
            with graph.inserting_after(after):
                after = graph.call_function(operator.getitem, (call, index))
            after.meta["tensor_meta"] = last.meta["tensor_meta"]
            nodes.append(after)
        output, code, logits, response = nodes
        last.replace_all_uses_with(output)
        self._erase(first, last)
        self._owner[output] = len(self.layers) - 1
        self._records.append((code, logits, response))

    def _erase(self, first: fx.Node, last: fx.Node) -> None:
        """Take out the replaced group, from its end, and the names under which its modules stood before."""
        node = last
        while node is not first:
            before = node.all_input_nodes[0]
            self.body.graph.erase_node(node)
            if node.op == "call_module" and self._uses[str(node.target)] == 1:
                self.body.delete_submodule(str(node.target))
            node = before
        self.body.graph.erase_node(first)


def _trace(model: nn.Module, example: Tensor) -> fx.GraphModule:
    if example.ndim != 4 or len(example) != 1:
        raise SurgeryError(
            f"the example has shape {tuple(example.shape)}; one image, [1, C, H, W], is needed"
        )
    copied = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            copied(example)  # fails with a plain message, where ShapeProp would print a traceback
            body = fx.symbolic_trace(copied)
            ShapeProp(body).propagate(example)
    except Exception as error:  # the tracer runs the user's own forward, which may raise anything
        raise SurgeryError(f"{type(model).__name__} cannot be traced: {error}") from error
    return body
