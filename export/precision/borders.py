"""Let narrow values cross the borders between graphs, not the float32 ones that they stand for.

A value that is narrow on both sides of a border, in the same form, would be widened, written, read and narrowed again.
Instead it is widened where it is read:

    out of a branch                     the ``If`` node gives narrow values, if all of its branches do, alike
    into a branch                       the branch reads narrow values and widens them itself
    past what only picks rows           they are picked from narrow values
    into what narrows to the same form  both are left out

Integers cross with their channels last: what turns them before a border and back behind it meets what ONNX Runtime
inserts there, and is left out.
"""

from __future__ import annotations

import onnx_ir as ir

from penstock.export.building import Builder, supersede
from penstock.export.nodes.regions import inner_graphs
from penstock.export.passes.reporting import Effect
from penstock.export.precision.forms import Narrow, behind, narrowing
from penstock.export.precision.standalone import IF, convolves, picked, picks_rows

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


UNLIKE = "not all branches answer in one narrow form"
MIXED = "rows come from values that are not all in one narrow form"
RESCALED = "what comes in is narrow in another form"
LEAVES = "the graph's answers keep their type"


class NarrowBorders:
    """A value that is narrow on both sides of a border crosses it so.

    It declines borders on the two sides of which, or in whose branches, narrow forms differ. What is float32 on both
    sides, as all that decides is, has nothing narrow to cross with and is not counted.
    """

    name = "cross borders narrow"

    def __call__(self, graph: ir.Graph) -> Effect:
        """Narrow the values that cross the borders of a graph's branches, those of inner branches first."""
        effect = Effect()
        _narrow(graph, effect)
        return effect


def _narrow(graph: ir.Graph, effect: Effect) -> None:
    for node in list(graph):
        if node.op_type == IF:
            for branch in inner_graphs(node):
                _narrow(branch, effect)
            for place in range(len(node.outputs)):
                _leave(graph, node, place, effect)
        elif picks_rows(node):
            _pick(graph, node, effect)
        elif narrowing(node):
            _join(graph, node, effect)
        else:
            _enter(graph, node, effect)


def _at(graph: ir.Graph, node: ir.Node) -> str:
    """What to call a place: branches have nodes of equal names."""
    return f"{graph.name}/{node.name}"


def channels_last(value: ir.Value) -> ir.Value:
    """The same with its channels last, made where the value is made."""
    node, graph = value.producer(), value.graph
    assert node is not None
    assert isinstance(graph, ir.Graph)
    if _perm(node) == FIRST and node.inputs[0] is not None:
        return node.inputs[0]
    for user, _ in value.uses():
        if user.graph is graph and _perm(user) == LAST:
            return user.outputs[0]
    build = Builder(graph, f"{value.name}.last")
    last = build.op("Transpose", value, perm=LAST)
    graph.insert_after(node, list(build.tape.nodes))
    return last


def _perm(node: ir.Node) -> list[int] | None:
    return list(node.attributes.get_ints("perm", [])) if node.op_type == "Transpose" else None


def _outward(found: Narrow) -> ir.Value:
    """As it crosses a border."""
    return channels_last(found.value) if found.turns else found.value


def _inward(build: Builder, value: ir.Value, found: Narrow) -> ir.Value:
    """As it was before `_outward`."""
    if not found.turns:
        return value
    return build.op("Transpose", value, perm=FIRST)


def _local(build: Builder, found: Narrow) -> ir.Value:
    """The narrow value in the graph that is built in."""
    return found.value if found.value.graph is build.graph else _inward(build, _outward(found), found)


def _enter(graph: ir.Graph, node: ir.Node, effect: Effect) -> None:
    """Widen here what a node reads widened from around its graph."""
    for place, value in enumerate(node.inputs):
        found = behind(value)
        if value is not None and found is not None and value.graph is not graph:
            build = Builder(graph, f"{node.name}.{place}")
            wide = found.form.widened(build, _local(build, found))
            wide.shape, wide.type = value.shape, value.type
            node.replace_input_with(place, wide)
            build.insert_before(node)
            effect.changed.append(f"{_at(graph, node)}.{place}")


def _join(graph: ir.Graph, node: ir.Node, effect: Effect) -> None:
    """Leave out a narrowing of what stands for the very same values."""
    found = behind(node.inputs[0])
    if found is None or found.form != narrowing(node):
        if found is not None and found.value.graph is graph:
            effect.declined[_at(graph, node)] = RESCALED
        _enter(graph, node, effect)
    elif node.outputs[0].is_graph_output():
        effect.declined[_at(graph, node)] = LEAVES
    else:
        effect.changed.append(_at(graph, node))
        build = Builder(graph, str(node.name))
        ir.convenience.replace_all_uses_with(node.outputs[0], _local(build, found))
        build.insert_before(node)
        graph.remove(node, safe=True)


def _pick(graph: ir.Graph, node: ir.Node, effect: Effect) -> None:
    """Pick rows from the narrow values."""
    data = picked(node)
    found = [behind(value) for value in data]
    first = found[0]
    if first is None or not all(one is not None and first.form == one.form for one in found):
        if any(found):
            effect.declined[_at(graph, node)] = MIXED
        _enter(graph, node, effect)
        return
    effect.changed.append(_at(graph, node))
    build = Builder(graph, str(node.name))
    inputs = [_outward(one) for one in found if one is not None] + list(node.inputs[len(data) :])
    rows = build.op(node.op_type, *inputs, axis=0)
    rows.type = ir.TensorType(first.form.kind)
    old = node.outputs[0]
    shapes = [value.shape for value in (old, *data) if value is not None and value.shape is not None]
    old.shape = _of_some_rows(shapes[0])
    supersede(old, first.form.widened(build, _inward(build, rows, first)))
    build.insert_before(node)
    graph.remove(node, safe=True)


def _leave(graph: ir.Graph, node: ir.Node, place: int, effect: Effect) -> None:
    """Let an ``If`` node give narrow values where all its branches that compute anything have them."""
    branches = list(inner_graphs(node))
    found = [behind(branch.outputs[place]) for branch in branches]
    first = next((one for one in found if one is not None), None)
    if first is None:
        return
    fits = all(map(_fits, branches, found, [first] * len(found)))
    effect.note(f"{_at(graph, node)}.{place}", None if fits else UNLIKE)
    if not fits:
        return
    sides = zip(branches, found, strict=True)
    shape = _of_some_rows(next(branch.outputs[place].shape for branch, one in sides if one is first))
    for branch, one in zip(branches, found, strict=True):
        branch.outputs[place] = _outward(one or _narrowed(branch, branch.outputs[place], first))
    build = Builder(graph, f"{node.name}.{place}")
    old = node.outputs[place]
    users = list(old.uses())
    wide = first.form.widened(build, _inward(build, old, first))
    graph.insert_after(node, list(build.tape.nodes))
    for user, position in users:
        user.replace_input_with(position, wide)
    for position, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[position] = wide
            wide.name, old.name = old.name, f"{old.name}.narrow"
    wide.shape, wide.type = shape, ir.TensorType(ir.DataType.FLOAT)
    old.shape, old.type = None, ir.TensorType(first.form.kind)


def _of_some_rows(shape: ir.Shape | None) -> ir.Shape | None:
    """Without what its batch is called: ONNX Runtime takes batches of one name to be of one size."""
    return None if shape is None else ir.Shape([None, *shape[1:]])


def _fits(branch: ir.Graph, found: Narrow | None, first: Narrow) -> bool:
    if found is None:
        return not convolves(branch)  # it is there for when there are no rows
    return found.form == first.form and found.value.graph is branch


def _narrowed(branch: ir.Graph, value: ir.Value, like: Narrow) -> Narrow:
    build = Builder(branch, f"{value.name}.narrow")
    narrow = like.form.narrowed(build, value)
    branch.extend(list(build.tape.nodes))
    return Narrow(narrow, like.form, like.turns)
