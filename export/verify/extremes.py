"""Check paths that real images hardly ever show: all gates open, all closed, all near to flipping, every prototype."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from penstock.bundle import FLAG, SCORE
from penstock.errors import VerificationError
from penstock.export.building import Builder
from penstock.export.capture.contract import ServedModel
from penstock.export.lowerings.lowering import Lowering
from penstock.export.nodes.gated_conv import GatedConvNode, read_gated_conv
from penstock.export.nodes.routed_conv import read_routed_conv
from penstock.export.operators import ESCALATE
from penstock.export.passes.finish import finish
from penstock.export.runtime import Graph, Outputs, open_graph
from penstock.export.verify.parity import MARGIN, reference, verify
from penstock.manifest import FP32
from penstock.nn.cascade import Cascade
from penstock.nn.gates import Gate, GatedConv2d
from penstock.nn.routing import StageRouter
from penstock.nn.surgery import GatedNetwork

CHOICE = "choice"
TINY = np.float32(1e-30)
NEAR = 2 * MARGIN  # from where a bit flips: as near as must not change it
# What gates are forced to, and the logits of the filters with even numbers and of those with odd ones.
GATES = {
    "all gates open": (1.0, 1.0),
    "all gates closed": (-1.0, -1.0),
    "all gates near to flipping": (NEAR, -NEAR),
}


def verify_extremes(
    captured: ir.Model, served: ServedModel, lowering: Lowering, images: npt.NDArray[np.uint8]
) -> None:
    """Check a lowering with all gates open, all closed and all near to flipping, and with every prototype.

    Args:
        captured: the model before lowering; it is not changed.
        served: the same in PyTorch; it is not changed.
        lowering: what to check.
        images: ``[N, C, H, W]`` uint8, a few.

    Raises:
        VerificationError: the forced graph disagrees with the forced network.
    """
    if not any(map(read_gated_conv, captured.graph)):
        _verify_choices(captured, served, lowering, images, "")
        return
    for how, logits in GATES.items():
        forced, model = copy.deepcopy(served), captured.clone()
        _force_gates(model.graph, forced, logits)
        if _choices(model.graph):
            _verify_choices(model, forced, lowering, images, f"with {how}, ")
        else:
            _compare(forced, images, _lowered(model, lowering).run(images), f"with {how}")


def _verify_choices(
    captured: ir.Model, served: ServedModel, lowering: Lowering, images: npt.NDArray[np.uint8], where: str
) -> None:
    """Every choice of routers and cascades at once, so that one graph, whose choice is an input, serves all.

    Of a cascade, choice 0 is the first member alone; from then on both members run, with every prototype in turn.
    """
    routers = [module for module in served.modules() if isinstance(module, StageRouter)]
    cascades = [module for module in served.modules() if isinstance(module, Cascade)]
    model = captured.clone()
    _take_choice(model.graph)
    graph = _lowered(model, lowering)
    for choice in range(max((router.count for router in routers), default=1) + len(cascades)):
        forced = copy.deepcopy(served)
        forced.head = None  # routers' soft codes are not forced in the graph, and its scores follow from them
        prototype = max(choice - len(cascades), 0)
        for module in forced.modules():
            _force_choice(module, prototype, unsure=choice > 0)
        got = graph.run(images, more={CHOICE: np.array(choice)})
        got[SCORE][:] = 0
        got[FLAG][:] = False
        members = f", {'both members' if choice else 'the first member alone'}" if cascades else ""
        _compare(forced, images, got, f"{where or 'with '}prototype {prototype} in every stage{members}")


def _lowered(model: ir.Model, lowering: Lowering) -> Graph:
    lowering.lower(model)
    content = ir.serde.serialize_model(finish(model, FP32)).SerializeToString()
    return open_graph(content, single=lowering.single)


def _compare(forced: ServedModel, images: npt.NDArray[np.uint8], got: Outputs, how: str) -> None:
    try:
        verify(reference(forced, images), got, forced.network.layout)
    except VerificationError as error:
        raise VerificationError(f"{how}: {error}") from error


def _force_choice(module: nn.Module, prototype: int, *, unsure: bool) -> None:
    """Let a router or a cascade in PyTorch choose the same for every image."""
    if isinstance(module, StageRouter) and module.count > 1:
        nn.init.zeros_(module.expand.weight)
        nn.init.zeros_(module.expand.bias)
        with torch.no_grad():
            module.expand.bias[min(prototype, module.count - 1)] = 1
    elif isinstance(module, Cascade):
        module.threshold.fill_(2.0 if unsure else -1.0)  # above and below every confidence


def _take_choice(graph: ir.Graph) -> None:
    """Let all choices follow from an input of the graph, int64."""
    choice = ir.Value(name=CHOICE, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    graph.inputs.append(choice)
    for value, options, start in _choices(graph):
        producer = value.producer()
        assert producer is not None
        users = list(value.uses())
        build = Builder(graph, f"forced.{value.name}")
        made = build.op("Sub", choice, build.constant(np.array(start), "start"))
        made = build.op("Max", made, build.constant(np.array(0), "first"))
        made = build.op("Min", made, build.constant(np.array(options - 1), "last"))
        made.shape = ir.Shape([])  # one for all images: branches that read it have no rows of it to pick
        number = build.op("Cast", value, to=ir.DataType.INT64)
        spread = build.op("Add", build.op("Mul", number, build.constant(np.array(0), "zero")), made)
        forced = build.op("Cast", spread, to=ir.DataType.INT64 if value.dtype is None else value.dtype)
        graph.insert_after(producer, list(build.tape.nodes))
        for user, position in users:
            user.replace_input_with(position, forced)


def _choices(graph: ir.Graph) -> list[tuple[ir.Value, int, int]]:
    """What decides on paths, among how many, and from which choice on."""
    found: dict[ir.Value, tuple[int, int]] = {}
    cascades = sum(node.op_type == ESCALATE for node in graph)
    for node in graph:
        routed = read_routed_conv(node)
        if routed is not None:
            found[routed.chosen] = (routed.prototypes, cascades)
        elif node.op_type == ESCALATE and node.inputs[1] is not None:
            found[node.inputs[1]] = (2, 0)
    return [(value, *how) for value, how in found.items()]


def _force_gates(graph: ir.Graph, served: ServedModel, logits: tuple[float, float]) -> None:
    """Let all gates answer the same whatever they see, in the graph and in PyTorch; both are changed.

    Args:
        graph: before lowering.
        served: the same network.
        logits: of the filters with even numbers, and of those with odd ones.
    """
    gates = _gates(served)
    for conv in filter(None, map(read_gated_conv, graph)):
        wanted = np.resize(np.array(logits, np.float32), conv.filters)
        bias = np.where(conv.fixed, conv.expand_bias, wanted)
        _force_gate(graph, conv, bias)
        gate = gates[conv.layer]
        nn.init.zeros_(gate.expand.weight)
        gate.expand.bias.data = torch.from_numpy(bias)


def _gates(served: ServedModel) -> dict[str, Gate]:
    """Gates by the names of their layers, of a cascade those of both members."""
    found: dict[str, Gate] = {}
    for member, network in served.network.named_modules():
        if isinstance(network, GatedNetwork):
            for name, layer in network.body.named_modules():
                if isinstance(layer, GatedConv2d):
                    found[f"{member}.{name}" if member else name] = layer.gate
    return found


def _force_gate(graph: ir.Graph, conv: GatedConvNode, bias: npt.NDArray[np.float32]) -> None:
    """Let a gated convolution's gate answer ``bias`` ``[filters]`` whatever it sees."""
    build = Builder(graph, conv.layer)
    # New initializers: the old ones may have other readers, because the exporter merges equal tensors.
    # Not zeros: the filters would count as settled, and be lowered in another way.
    tiny = np.full_like(conv.expand_weight, TINY)
    weight = build.constant(np.where(conv.fixed[:, None], 0, tiny), "forced.weight")
    conv.node.replace_input_with(len(conv.node.inputs) - 2, weight)
    conv.node.replace_input_with(len(conv.node.inputs) - 1, build.constant(bias, "forced.bias"))
