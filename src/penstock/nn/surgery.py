"""Surgery: put gates into a trained network.

`attach_gates` traces a module with ``torch.fx`` (`penstock.nn.tracing`), decides for every convolution
(`penstock.nn.planning`), and replaces each group conv -> (batch norm) -> (activation) that a gate rules by one
`GatedConv2d` that keeps the trained weights. With all gates open the result equals the original network. The given
module is left as it was. Every convolution appears in the report: gated, or left alone and why.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from penstock.errors import SurgeryError
from penstock.nn.channels import Channels
from penstock.nn.counting import node_macs
from penstock.nn.following import FollowingConv2d
from penstock.nn.gates import Gate, GateConfig, GatedConv2d
from penstock.nn.groups import Group
from penstock.nn.operators import shape_of, tensor_input
from penstock.nn.path_network import GatedOutput, PathNetwork
from penstock.nn.planning import Finding, Plan, Where, plan
from penstock.nn.tracing import Leaves, leaf_names, trace
from penstock.paths import PathLayout

__all__ = ["Finding", "GatedNetwork", "GatedOutput", "Where", "attach_gates"]


class GatedNetwork(PathNetwork):
    """A network whose convolutions are ruled by gates.

    Attributes:
        body: the traced network; gives its output and the four records of every gated layer.
        layout: order, size and cost of the gated layers.
        report: what surgery found.
    """

    def __init__(self, body: fx.GraphModule, layout: PathLayout, report: tuple[Finding, ...]) -> None:
        super().__init__(layout)
        self.body = body
        self.report = report

    @property
    def gated_layers(self) -> tuple[GatedConv2d, ...]:
        """The gated convolutions in path order."""
        names = [layer.name for layer in self.layout.layers if not layer.observes]
        return tuple(self.body.get_submodule(name) for name in names)  # type: ignore[misc]

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
    *,
    leaves: Leaves = (),
) -> GatedNetwork:
    """Put gates on a network's convolutions.

    Args:
        model: a trained network; it is copied, not changed, and traced as it answers in evaluation.
        example: one input, ``[1, C, H, W]``, from which sizes are learned.
        config: shape and start of the gates.
        where: called with a convolution's qualified name and the module; gates go where it says True. Default: all
            but the first convolution, which sees the image itself, as in the paper's release, and one whose filters
            are the classes. A module that cannot be traced is kept whole if ``where`` chooses nothing inside.
        leaves: modules that are kept whole, by qualified name or class: they are not traced into, get no gates, and
            cost what is seen to run inside.

    Raises:
        SurgeryError: the model cannot be traced, holds an operator of unknown cost, or has nothing to gate.
    """
    whole = leaf_names(model, leaves)
    try:
        body = trace(model, example, whole)
    except SurgeryError:
        unwanted = frozenset() if where is None else _without_gates(model, where)
        if not unwanted - whole:
            raise
        whole |= unwanted
        body = trace(model, example, whole)
    modules = dict(body.named_modules())
    dense_macs = sum(node_macs(node, modules) for node in body.graph.nodes)
    planned = plan(body.graph, modules, where)
    report = (*planned.report, *_not_called(model, planned, whole))
    if not planned.layers:
        reasons = "; ".join(f"{finding.name}: {finding.reason}" for finding in report)
        raise SurgeryError(f"no convolution could be gated ({reasons or 'the network has none'})")
    gate_macs = _operate(body, planned, config or GateConfig())
    moving = sum(layer.macs for layer in planned.layers) + sum(each.macs for each in planned.followers)
    layout = PathLayout(
        layers=tuple(planned.layers),
        fixed_macs=dense_macs - moving + gate_macs,
        dense_macs=dense_macs,
        followers=tuple(planned.followers),
    )
    return GatedNetwork(body, layout, report).to(example.device).train(model.training)


def _operate(body: fx.GraphModule, planned: Plan, config: GateConfig) -> int:
    """Put the gates in, and let the graph return their records beside its output; gives the MACs of the gates."""
    gate_macs = 0
    records: list[tuple[fx.Node, fx.Node, fx.Node]] = []
    for group in planned.groups:
        gate = Gate(group.conv.in_channels, group.conv.out_channels, config)
        entering = shape_of(tensor_input(group.nodes[0]))
        gate_macs += gate.macs + entering[1] * entering[2] * entering[3]
        records.append(_gate(body, group, gate))
    for group, channels in planned.following:
        _follow(body, group, channels, [code for code, _, _ in records])
    output = next(node for node in body.graph.nodes if node.op == "output")
    output.args = ((output.args[0], tuple(records)),)
    body.delete_all_unused_submodules()
    body.graph.lint()
    body.recompile()
    return gate_macs


def _gate(body: fx.GraphModule, group: Group, gate: Gate) -> tuple[fx.Node, fx.Node, fx.Node]:
    """Put a gated convolution in a group's place; gives the nodes of its code, gate logits and response."""
    module = GatedConv2d(group.conv, group.norm, group.activation, gate)
    results: list[fx.Node] = []
    with body.graph.inserting_before(group.nodes[0]):
        call = body.graph.call_module(group.name, (tensor_input(group.nodes[0]),))
        for index in range(4):
            results.append(body.graph.call_function(operator.getitem, (call, index)))
    output, code, logits, response = results
    _take_out(body, group, module, output)
    return code, logits, response


def _follow(body: fx.GraphModule, group: Group, channels: Channels, codes: Sequence[fx.Node]) -> None:
    """Put a following convolution in a group's place."""
    module = FollowingConv2d(group.conv, group.norm, group.activation, channels)
    leading = (codes[layer] for layer, _ in channels if layer is not None)
    with body.graph.inserting_before(group.nodes[0]):
        call = body.graph.call_module(group.name, (tensor_input(group.nodes[0]), *leading))
    _take_out(body, group, module, call)


def _take_out(body: fx.GraphModule, group: Group, module: nn.Module, output: fx.Node) -> None:
    """Let ``output`` stand for the group, and ``module`` for its convolution."""
    output.meta["shape"] = group.nodes[-1].meta["shape"]
    group.nodes[-1].replace_all_uses_with(output)
    for node in reversed(group.nodes):
        body.graph.erase_node(node)
        # The module lives on inside the new one; under its old name its tensors would be there twice.
        if node.op == "call_module" and all(other.target != node.target for other in body.graph.nodes):
            body.delete_submodule(str(node.target))
    body.set_submodule(group.name, module)


def _without_gates(model: nn.Module, where: Where) -> frozenset[str]:
    """Modules, the outermost, in which ``where`` chooses no convolution."""
    chosen = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and where(name, module)
    ]
    found: list[str] = []
    for name, _ in model.named_modules():
        outside = not any(name.startswith(f"{outer}.") for outer in found)
        if name and outside and not any(each == name or each.startswith(f"{name}.") for each in chosen):
            found.append(name)
    return frozenset(found)


def _not_called(model: nn.Module, planned: Plan, whole: frozenset[str]) -> list[Finding]:
    """Findings for convolutions that the traced graph does not call."""
    seen = {finding.name for finding in planned.report}
    findings = []
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd) and name not in seen:
            keeper = next((leaf for leaf in sorted(whole) if f"{name}.".startswith(f"{leaf}.")), None)
            reason = (
                "not reached in evaluation" if keeper is None else f"inside {keeper}, which is kept whole"
            )
            findings.append(Finding(name, False, reason))
    return findings
