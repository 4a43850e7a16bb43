r"""Prototypes: whole stages of a network share a few fixed paths, and a router picks one at the stage's entrance.

Gates decide layer by layer. *Consolidated*, a network keeps for each stage ``s`` only ``K`` **prototype** paths
``B_s`` in ``{0, 1}^{K x P_s}``, ``P_s`` being the bits of the stage's gated layers, and a **router** in the place of
all its gates:

    r = W2 relu(W1 norm(gap(x)) + b1) + b2      ``[N, K]``, from the stage's input x
    k = argmax r                                the prototype that runs
    z = B_s[k]                                  codes of all layers of the stage

A prototype is a static network, so it runs at full dense efficiency. ``K = 1`` has no router and is ordinary static
pruning. In training the choice is Gumbel-softmax (Jang et al., 2017, https://arxiv.org/abs/1611.01144): hard in the
forward pass, soft in the backward pass; otherwise it is the plain argmax, with the same gradient.

Batch norm folds into its convolution, so a prototype may own its batch norms at no cost (Yu et al., *Slimmable Neural
Networks*, 2019, https://arxiv.org/abs/1812.08928, section 3): the statistics behind few filters are not those behind
many.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.gates import GatedConv2d
from penstock.nn.operators import shape_of
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


class Route(NamedTuple):
    """What a stage's router decides.

    Attributes:
        codes: z of each layer of the stage, ``[N, filters]``.
        opinions: of each filter how strongly the router's probabilities favour it, ``p B - 1/2``, ``[N, filters]``.
        chosen: ``[N]`` int64, the prototype that runs.
        logits: r, ``[N, K]`` float32.
    """

    codes: tuple[Tensor, ...]
    opinions: tuple[Tensor, ...]
    chosen: Tensor
    logits: Tensor


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


class StageRouter(nn.Module):
    """Picks one of a stage's prototypes for each input.

    Args:
        in_channels: channels of the stage's input.
        filters: of each gated layer of the stage.
        config: number of prototypes and size of the router.
    """

    prototypes: Tensor

    def __init__(self, in_channels: int, filters: Sequence[int], config: PrototypeConfig) -> None:
        super().__init__()
        self.filters = list(filters)
        self.count = config.count
        self.noise = True
        self.register_buffer("prototypes", torch.ones(config.count, sum(filters)))
        self.normalize = nn.BatchNorm1d(in_channels, affine=False)
        self.reduce = nn.Linear(in_channels, config.hidden)
        self.expand = nn.Linear(config.hidden, config.count)

    @property
    def macs(self) -> int:
        """MACs of the two linear layers for one input; none where there is nothing to choose."""
        return 0 if self.count == 1 else self.reduce.weight.numel() + self.expand.weight.numel()

    def forward(self, x: Tensor) -> Route:
        """Decide for ``x`` ``[N, C, H, W]``."""
        logits = self._logits(x)
        soft = logits.softmax(1)
        weights = self._pick(logits, soft)
        codes = torch.split(weights @ self.prototypes, self.filters, 1)
        opinions = torch.split(soft @ self.prototypes - 0.5, self.filters, 1)
        return Route(codes, opinions, weights.argmax(1), logits)

    def _logits(self, x: Tensor) -> Tensor:
        if self.count == 1:
            return x.new_zeros(len(x), 1, dtype=torch.float32)
        pooled = x.mean(dim=(2, 3))
        logits: Tensor = self.expand(torch.relu(self.reduce(self.normalize(pooled))))
        return logits.float()

    def _pick(self, logits: Tensor, soft: Tensor) -> Tensor:
        if self.training and self.noise and self.count > 1:
            return F.gumbel_softmax(logits, hard=True)
        hard = F.one_hot(logits.argmax(1), self.count).to(soft.dtype)
        return hard + soft - soft.detach() if torch.is_grad_enabled() else hard


class RoutedNorm(nn.Module):
    """One batch norm per prototype.

    Args:
        norm: the batch norm that all start as.
        count: number of prototypes.
    """

    def __init__(self, norm: nn.Module, count: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(count))

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Normalise each of ``x`` ``[N, C, H, W]`` as its prototype ``chosen`` ``[N]`` does."""
        order = chosen.argsort()
        sizes = torch.bincount(chosen, minlength=len(self.norms)).tolist()
        groups = torch.split(x[order], sizes)
        done = [norm(group) for norm, group in zip(self.norms, groups, strict=True) if len(group)]
        return torch.cat(done)[order.argsort()]


class RoutedConv2d(nn.Module):
    """A convolution with its batch norm and activation, ruled by its stage's router: ``z * act(bn(conv(x)))``.

    Args:
        conv: the convolution.
        norm: its batch norm, a `RoutedNorm`, or ``nn.Identity()``.
        activation: its activation, or ``nn.Identity()``.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.activation = activation

    def forward(
        self, x: Tensor, code: Tensor, opinion: Tensor, chosen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run on ``x`` ``[N, C, H, W]``; the results are those of `GatedConv2d`."""
        output = self.conv(x)
        output = self.norm(output, chosen) if isinstance(self.norm, RoutedNorm) else self.norm(output)
        output = self.activation(output)
        mask = code.to(output.dtype)[:, :, None, None]
        return output * mask, code, opinion, output.mean(dim=(2, 3))


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


def stages_by_size(network: GatedNetwork) -> tuple[int, ...]:
    """How many gated layers follow each other without a change of the size of what they write."""
    sizes = [tuple(_call(network, layer.name).meta["sizes"][2:]) for layer in network.layout.layers]
    starts = [0, *(index for index, (a, b) in enumerate(pairwise(sizes), 1) if a != b), len(sizes)]
    return tuple(b - a for a, b in pairwise(starts))


def attach_prototypes(network: GatedNetwork, config: PrototypeConfig) -> ConsolidatedNetwork:
    """Put routers in the place of gates; all prototypes are all ones until `set_prototypes`.

    Args:
        network: a gated network as `attach_gates` gives it; it is copied, not changed.
        config: what to build; its stages must cover the network's gated layers.

    Raises:
        InvalidArgumentError: they do not.
    """
    layers = network.layout.layers
    if sum(config.stages) != len(layers):
        raise InvalidArgumentError(
            f"stages {config.stages} hold {sum(config.stages)} gated layers; the network has {len(layers)}"
        )
    network = copy.deepcopy(network)
    gates = routers = start = 0
    network.body.routers = nn.ModuleList()
    said = []
    for index, length in enumerate(config.stages):
        stage = layers[start : start + length]
        calls = [_call(network, layer.name) for layer in stage]
        entering = shape_of(calls[0].all_input_nodes[0])
        router = StageRouter(entering[1], [layer.filters for layer in stage], config)
        network.body.routers.append(router)
        if config.count > 1:
            routers += router.macs + entering[1] * entering[2] * entering[3]
        gates += sum(_gate_macs(network, call) for call in calls)
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
    """Give each stage its prototypes, ``[K, P_s]``, 0 or 1."""
    for router, own in zip(network.routers, bits, strict=True):
        if own.shape != router.prototypes.shape:
            raise InvalidArgumentError(
                f"prototypes of shape {tuple(own.shape)}; this stage needs {tuple(router.prototypes.shape)}"
            )
        router.prototypes.copy_(own)


def _call(network: GatedNetwork, name: str) -> fx.Node:
    """The node that runs a gated layer, with the shape of what it writes beside it."""
    nodes = network.body.graph.nodes
    call: fx.Node = next(node for node in nodes if node.op == "call_module" and node.target == name)
    output = next(user for user in call.users if user.args[1] == 0)
    call.meta["sizes"] = shape_of(output)
    return call


def _gate_macs(network: GatedNetwork, call: fx.Node) -> int:
    gated = network.body.get_submodule(str(call.target))
    assert isinstance(gated, GatedConv2d)
    entering = shape_of(call.all_input_nodes[0])
    return gated.gate.macs + entering[1] * entering[2] * entering[3]


def _rewire(body: fx.GraphModule, router: str, calls: Sequence[fx.Node], config: PrototypeConfig) -> fx.Node:
    """Let the stage's layers take their codes from a router that reads what the first of them reads.

    Returns:
        the node that holds the router's logits.
    """
    graph = body.graph
    with graph.inserting_before(calls[0]):
        route = graph.call_module(router, args=(calls[0].args[0],))
        codes, opinions, chosen, logits = (
            graph.call_function(operator.getitem, (route, part)) for part in range(len(Route._fields))
        )
        for index, call in enumerate(calls):
            gated = body.get_submodule(str(call.target))
            assert isinstance(gated, GatedConv2d)
            norm = gated.norm
            if config.own_norms and config.count > 1 and isinstance(norm, nn.BatchNorm2d):
                norm = RoutedNorm(norm, config.count)
            body.set_submodule(str(call.target), RoutedConv2d(gated.conv, norm, gated.activation))
            code = graph.call_function(operator.getitem, (codes, index))
            opinion = graph.call_function(operator.getitem, (opinions, index))
            call.args = (call.args[0], code, opinion, chosen)
    return logits
