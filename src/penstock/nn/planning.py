"""Decides, for every convolution of a traced network, whether a gate rules it, and if not, why.

1. The first convolution, which sees the image itself, is left alone, as in the paper's release, and so is one whose
   filters are the network's classes: closing those would not save work but take answers away. `where` overrules both.
2. A depthwise convolution has no gate of its own. Where it reads gated channels it follows their gates.
3. A grouped convolution gets a gate for its filters, but each of its groups reads channels of its own: nothing is
   counted as skipped on its input side.
4. A convolution that is called more than once, or is not a `Conv2d` module, is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from penstock.nn.channels import ChannelFlow, Channels, Segment, gates_of, sources_of
from penstock.nn.counting import conv_macs
from penstock.nn.groups import Group, GroupFinder
from penstock.nn.operators import kind_of, shape_of, tensor_input
from penstock.paths import Follower, PathLayer

Where = Callable[[str, nn.Conv2d], bool]
FIRST = "first convolution: it sees the image itself"
CLASSES = "its filters are the network's classes"


@dataclass(frozen=True)
class Finding:
    """One line of the surgery report: a convolution, whether a gate rules it, and if not, why.

    Attributes:
        name: qualified name of the convolution.
        gated: whether a gate rules its filters.
        reason: why not; for a depthwise convolution that follows, whose gate it is.
    """

    name: str
    gated: bool
    reason: str = ""


@dataclass(eq=False)
class Plan:
    """What surgery will do.

    Attributes:
        layers: the gated layers, in order.
        groups: what each of them is made of.
        followers: the depthwise convolutions that follow.
        following: what each of those is made of, and the channels that it reads.
        report: a finding for every call of a convolution.
    """

    layers: list[PathLayer] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    following: list[tuple[Group, Channels]] = field(default_factory=list)
    report: list[Finding] = field(default_factory=list)


def plan(graph: fx.Graph, modules: Mapping[str, nn.Module], where: Where | None) -> Plan:
    """Decide for every convolution of a measured graph.

    Args:
        graph: from `penstock.nn.tracing`.
        modules: its modules by name.
        where: which convolutions are wanted; ``None``: all but the first and the classifier.
    """
    planner = _Planner(graph, modules, where, frozenset())
    planned = planner.run()
    classifiers = planner.classifiers() if where is None else frozenset()
    return _Planner(graph, modules, where, classifiers).run() if classifiers else planned


class _Planner:
    """One walk through the graph, in order."""

    def __init__(
        self,
        graph: fx.Graph,
        modules: Mapping[str, nn.Module],
        where: Where | None,
        classifiers: Collection[str],
    ) -> None:
        self.graph = graph
        self.modules = modules
        self.where = where
        self.barred = classifiers
        self.flow = ChannelFlow(modules)
        self.finder = GroupFinder(graph, modules)
        self.plan = Plan()

    def run(self) -> Plan:
        """Walk."""
        inside: set[fx.Node] = set()  # of groups that are dealt with
        for node in self.graph.nodes:
            if node in inside:
                continue
            if kind_of(node, self.modules) in ("conv", "conv_transpose"):
                inside.update(self._treat(node))
            elif node.op not in ("placeholder", "get_attr", "output"):
                self.flow.visit(node)
        return self.plan

    def classifiers(self) -> frozenset[str]:
        """Gated layers whose filters are columns of a result ``[N, classes]`` of the network."""
        output = next(node for node in self.graph.nodes if node.op == "output")
        results = list(output.all_input_nodes)
        for packed in [node for node in results if kind_of(node, self.modules) == "tuple"]:
            results += packed.all_input_nodes
        results = [node for node in results if len(shape_of(node)) == 2]
        indices = {index for node in results for index in gates_of(self.flow.of(node))}
        return frozenset(self.plan.layers[index].name for index in indices)

    def _treat(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """Decide for the convolution at ``node``; gives the nodes that this deals with."""
        name = str(node.target) if node.op == "call_module" else node.name
        conv = self.modules.get(name) if node.op == "call_module" else None
        reason = self._why_not(name, conv)
        if reason or not isinstance(conv, nn.Conv2d):
            self.plan.report.append(Finding(name, False, reason))
            return (node,)
        group = self.finder.group(node, conv)
        entering = self.flow.of(tensor_input(node))
        if _is_depthwise(conv):
            self._follow(group, entering)
        else:
            self._gate(group, entering)
        return group.nodes

    def _why_not(self, name: str, conv: nn.Module | None) -> str:
        if conv is None:
            return "functional: its weights belong to no Conv2d module"
        if not isinstance(conv, nn.Conv2d) or isinstance(conv, nn.ConvTranspose2d):
            return f"{type(conv).__name__}: only Conv2d gets a gate"
        if self.where is not None and not self.where(name, conv):
            return "not chosen"
        if self.where is None and not self.plan.report:
            return FIRST
        if self.finder.uses[name] > 1:
            return f"shared: called {self.finder.uses[name]} times"
        return CLASSES if name in self.barred else ""

    def _gate(self, group: Group, entering: Channels) -> None:
        index, filters = len(self.plan.layers), group.conv.out_channels
        sources, ungated = ((), 0) if group.conv.groups > 1 else self._sources(entering)
        macs = conv_macs(group.conv, shape_of(group.nodes[0]))
        self.plan.layers.append(
            PathLayer(name=group.name, filters=filters, macs=macs, sources=sources, ungated=ungated)
        )
        self.plan.groups.append(group)
        self.plan.report.append(Finding(group.name, True))
        self.flow.set(group.nodes[-1], (Segment(index, filters),))

    def _follow(self, group: Group, entering: Channels) -> None:
        conv = group.conv
        sources, ungated = self._sources(entering)
        if not sources:
            reason = f"depthwise ({conv.groups} groups), and no gate rules what it reads"
            self.plan.report.append(Finding(group.name, False, reason))
            for node in group.nodes[1:]:
                self.flow.visit(node)
            return
        macs = conv_macs(conv, shape_of(group.nodes[0]))
        self.plan.followers.append(Follower(name=group.name, macs=macs, sources=sources, ungated=ungated))
        self.plan.following.append((group, entering))
        leaders = ", ".join(self.plan.layers[source].name for source in dict.fromkeys(sources))
        self.plan.report.append(Finding(group.name, True, f"depthwise: follows the gates of {leaders}"))
        times = conv.out_channels // conv.in_channels
        self.flow.set(
            group.nodes[-1], tuple(Segment(layer, channels * times) for layer, channels in entering)
        )

    def _sources(self, entering: Channels) -> tuple[tuple[int, ...], int]:
        return sources_of(entering, {index: layer.filters for index, layer in enumerate(self.plan.layers)})


def _is_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups > 1 and conv.groups == conv.in_channels
