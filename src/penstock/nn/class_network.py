"""A class's sub-architecture as a network of its own: the frozen network pruned to the filters of one class.

Disentanglement finds the filters that the decision for one class needs (`penstock.nn.class_masks`). Its hard masks
stand where gates stand and do not depend on the input, so one class's path is a consolidated network with a single
prototype: the same weights, the same answers, and `penstock.export` makes a small static network of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from penstock.errors import NotFoundError, UnsupportedError
from penstock.nn.assembly import Member, assemble
from penstock.nn.checkpoint import Checkpoint
from penstock.nn.gates import GateConfig
from penstock.nn.prototypes import ConsolidatedNetwork, PrototypeConfig, set_prototypes, stages_by_size
from penstock.nn.sub_architectures import SubArchitectures, load_sub_architectures, sub_architectures_file
from penstock.nn.surgery import attach_gates

# What was measured of every class, by its name in `penstock.learn.class_tasks.TaskFigures`, and what it is called here.
MEASURED = {
    "recall": "accuracy",
    "precision": "precision",
    "balanced": "balanced_accuracy",
    "dense_recall": "dense_accuracy",
}


def class_checkpoint(source: SubArchitectures | Path, class_name: str) -> Checkpoint:
    """The sub-architecture of one class.

    Its logits are those of all classes; whether the class's own is the largest is the yes or no that it was made for.

    Args:
        source: the result of a disentanglement: its run folder, its file, or what is in it.
        class_name: whose sub-architecture.

    Returns:
        A checkpoint without a detector: a path that is the same for every image says nothing about any. Its figures
        are `MEASURED`, on the class's own images where the run measured them, and ``mac_fraction``, its cost.

    Raises:
        NotFoundError: there is no such file, or no such class in it; the message lists those that there are.
        UnsupportedError: the masks do not belong to the layers that would be masked now.
    """
    found = (
        source
        if isinstance(source, SubArchitectures)
        else load_sub_architectures(sub_architectures_file(source))
    )
    if class_name not in found.class_names:
        raise NotFoundError(f"no class {class_name!r}; there are {', '.join(found.class_names)}")
    row = found.class_names.index(class_name)
    member, network = _unmasked(found)
    path = (found.scores[row] > 0).float()
    parts = torch.split(path, [sum(router.filters) for router in network.routers])
    set_prototypes(network, [part[None] for part in parts])
    return Checkpoint(
        backbone=found.backbone,
        class_names=found.class_names,
        input_shape=found.input_shape,
        members=(member,),
        network=network.eval(),
        dense=found.dense,
        config={**found.config, "class": class_name},
        figures=_figures(found, row),
    )


def _unmasked(found: SubArchitectures) -> tuple[Member, ConsolidatedNetwork]:
    """The network with a single prototype for all images, with which everything is open."""
    example = torch.zeros(1, *found.input_shape)
    gated = attach_gates(found.dense, example)
    masked, now = ([(layer.name, layer.filters) for layer in each.layout.layers] for each in (found, gated))
    if masked != now:
        raise UnsupportedError(
            f"these masks are for the layers {', '.join(name for name, _ in masked)}; in this network they would stand "
            f"at {', '.join(name for name, _ in now)}: disentangle again"
        )
    shape = PrototypeConfig(count=1, stages=stages_by_size(gated))
    member = Member(gate=GateConfig(), prototypes=shape)
    network = assemble(found.dense, example, [member])
    assert isinstance(network, ConsolidatedNetwork)
    return member, network


def _figures(found: SubArchitectures, row: int) -> dict[str, Any]:
    tasks = found.figures.get("tasks", {})
    figures = {name: tasks[measured][row] for measured, name in MEASURED.items() if measured in tasks}
    return {**figures, "mac_fraction": float(found.paths.active_macs[row])}
