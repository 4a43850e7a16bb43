"""From a user's module to a graph whose every value's shape is known.

The network is traced as it answers in evaluation: a branch that it takes in training only, as GoogLeNet's auxiliary
heads, is no part of the graph. Functional dropout, whose mode the tracer would freeze, becomes a module that follows
the network's mode.

A module that the tracer cannot follow may be kept whole: it appears in the graph as one call, and what it costs is
counted while it runs on the example.
"""

from __future__ import annotations

import copy
import re
import traceback
from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from penstock.errors import SurgeryError
from penstock.nn.operators import STOCHASTIC_DEPTH, argument, kind_of, module_kind

Leaves = Sequence[str | type[nn.Module]]
TORCH = str(Path(torch.__file__).parent)
HERE = str(Path(__file__).parent)


def trace(model: nn.Module, example: Tensor, whole: Collection[str] = ()) -> fx.GraphModule:
    """Trace a copy of a network and run it once.

    Args:
        model: the network; it is not changed.
        example: one image, ``[1, C, H, W]``.
        whole: qualified names of modules that are kept whole.

    Returns:
        The traced copy, in evaluation mode. Its nodes' ``meta`` hold ``shape`` (of a tensor), ``shapes`` (of a row of
        tensors), ``macs`` (of a module kept whole) and ``line`` (of the user's code).

    Raises:
        SurgeryError: the network does not run on the example, or cannot be traced; names the line and the remedy.
    """
    if example.ndim != 4 or len(example) != 1:
        raise SurgeryError(
            f"the example has shape {tuple(example.shape)}; one image, [1, C, H, W], is needed"
        )
    copied = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            copied(example)  # what fails here fails with the user's own message
            graph = _Tracer(whole).trace(copied)
            body = fx.GraphModule(copied, graph, type(model).__name__)
            _follow_mode(body)
            _Measurer(body, whole).run(example)
    except Exception as error:  # the user's own forward may raise anything
        raise SurgeryError(_why_not(copied, error)) from error
    for node in body.graph.nodes:
        node.meta["line"] = _line_of(node)
    return body.eval()


def leaf_names(model: nn.Module, leaves: Leaves) -> frozenset[str]:
    """Qualified names of the modules that ``leaves`` means.

    Args:
        model: where they are looked for.
        leaves: qualified names, or classes whose every instance is meant.

    Raises:
        SurgeryError: a name or a class that the network does not have.
    """
    named = {name: module for name, module in model.named_modules() if name}
    names: set[str] = set()
    for leaf in leaves:
        found = {name for name in named if name == leaf}
        if not isinstance(leaf, str):
            found = {name for name, module in named.items() if isinstance(module, leaf)}
        if not found:
            raise SurgeryError(f"leaves names {leaf!r}, which {type(model).__name__} does not have")
        names |= found
    return frozenset(names)


class _Tracer(fx.Tracer):
    """Keeps chosen modules whole and remembers which line of the user's code each operator stands in."""

    record_stack_traces = True

    def __init__(self, whole: Collection[str] = ()) -> None:
        super().__init__()  # without arguments where PyTorch unpickles a traced network
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = module_qualified_name in self.whole or type(m).__name__ in STOCHASTIC_DEPTH
        return whole or super().is_leaf_module(m, module_qualified_name)


class _Measurer(fx.Interpreter):
    """Runs a graph and writes into each node's ``meta`` what came out there."""

    def __init__(self, body: fx.GraphModule, whole: Collection[str]) -> None:
        super().__init__(body)
        self.whole = whole
        self.modules = dict(body.named_modules())

    def run_node(self, n: fx.Node) -> Any:
        name = str(n.target)
        if n.op == "call_module" and name in self.whole and not module_kind(self.modules[name]):
            with FlopCounterMode(display=False, custom_mapping=_POOLINGS) as counter:
                result = super().run_node(n)
            n.meta["macs"] = counter.get_total_flops() // 2
        else:
            result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        elif isinstance(result, list | tuple):
            n.meta["shapes"] = tuple(tuple(part.shape) for part in result if isinstance(part, Tensor))
        elif isinstance(result, Mapping):
            n.meta["shapes"] = tuple(
                tuple(part.shape) for part in result.values() if isinstance(part, Tensor)
            )
        return result


def _pooling_flops(entering: Sequence[int], *_: object, **__: object) -> int:
    return 2 * prod(entering)


# `FlopCounterMode` knows products only. Two operations are one MAC.
_POOLINGS: dict[Any, Any] = dict.fromkeys(
    (
        torch.ops.aten.mean,
        torch.ops.aten.sum,
        torch.ops.aten.avg_pool2d,
        torch.ops.aten._adaptive_avg_pool2d,
    ),
    _pooling_flops,
)


def _follow_mode(body: fx.GraphModule) -> None:
    """Turn calls of functional dropout that are off in evaluation into modules."""
    modules = dict(body.named_modules())
    for node in list(body.graph.nodes):
        if node.op != "call_function" or kind_of(node, modules) != "dropout":
            continue
        if argument(node, 2, "training", True):
            continue  # on in evaluation too: the network wants it so
        name = f"{node.name}_module"
        body.add_submodule(name, nn.Dropout(float(str(argument(node, 1, "p", 0.5)))))
        with body.graph.inserting_before(node):
            call = body.graph.call_module(name, (node.all_input_nodes[0],))
        call.stack_trace = node.stack_trace
        node.replace_all_uses_with(call)
        body.graph.erase_node(node)
    body.recompile()


def _why_not(model: nn.Module, error: Exception) -> str:
    """What stopped the tracer, in which line of the user's code, and what can be done."""
    message = f"{type(model).__name__} cannot be traced: {error}"
    names = {module: name for name, module in model.named_modules()}
    line, owner = "", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if not code.co_filename.startswith(("<", TORCH, HERE)):
            line = f"{code.co_filename}:{number}"
            first = frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
            owner = names.get(first, owner) if isinstance(first, nn.Module) else owner
    if not line:
        return message
    remedy = (
        f"keep the module whole with leaves={[owner]!r}, or let where choose nothing inside it"
        if owner
        else "move that line into a module of its own and name that in leaves, which keeps it whole"
    )
    return f"{message}\n  at {line}\n  {remedy}; convolutions in it get no gates then"


def _line_of(node: fx.Node) -> str:
    """``file:line`` of the user's code from which a node was traced; empty where PyTorch's own modules call it."""
    for line in reversed((node.stack_trace or "").splitlines()):
        place = re.match(r'\s*File "(.+)", line (\d+)', line)
        if place is not None and place[1].startswith(HERE):
            return ""
        if place is not None and not place[1].startswith(TORCH):
            return f"{place[1]}:{place[2]}"
    return ""
