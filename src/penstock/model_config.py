"""``config.pbtxt``: how a model of a repository is called, in the form that Triton and the service read."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.manifest import FLAG, INPUT, INPUT_TYPES, LOGITS, PATH, Manifest, output_widths

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MAX_BATCH_PARAMETER = "penstock_max_batch"
BATCHING = "dynamic_batching { }\n"
"""Lets requests that wait at the same time share a run, and none wait for others: docs/decisions/0012."""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """How a model is called: what its configuration depends on, all of it known before anything is compiled.

    Attributes:
        input_shape: ``(channels, height, width)`` of one image.
        input_type: one of `penstock.manifest.INPUT_TYPES`.
        class_names: one name per logit.
        bits: of a path.
        max_batch: largest batch that one request may carry.
        single: whether the graph takes exactly one image, so that a batch is spread over several runs.
    """

    input_shape: tuple[int, int, int]
    input_type: str = INPUT_TYPES[0]
    class_names: tuple[str, ...]
    bits: int
    max_batch: int
    single: bool

    @classmethod
    def of(cls, manifest: Manifest) -> Interface:
        """That of a bundle."""
        return cls(
            input_shape=manifest.input_shape,
            input_type=manifest.input_type,
            class_names=manifest.class_names,
            bits=manifest.layout.bits,
            max_batch=manifest.max_batch,
            single=manifest.single,
        )


def config_files(name: str, interface: Interface) -> dict[str, str]:
    """The texts by name of the files that belong to all versions of a model."""
    labels = "".join(f"{label}\n" for label in interface.class_names)
    return {CONFIG_FILE: config_text(name, interface), LABELS_FILE: labels}


def config_text(name: str, interface: Interface) -> str:
    """The ``config.pbtxt`` that Triton and the service read.

    A graph for single images has no batch dimension of its own to announce: its dims include the 1, and
    `MAX_BATCH_PARAMETER` tells the service how far it may spread. Triton knows formats of three dims only, so that
    such a graph's stands nowhere; the service announces it for both.
    """
    batch = [1] if interface.single else []
    types = {PATH: "TYPE_UINT8", FLAG: "TYPE_BOOL"}

    def tensor(tensor_name: str, datatype: str, dims: list[int], extra: str = "") -> str:
        return f'  {{ name: "{tensor_name}" data_type: {datatype} dims: {dims}{extra} }}'

    outputs = [
        tensor(
            output,
            types.get(output, "TYPE_FP32"),
            [*batch, width],
            f' label_filename: "{LABELS_FILE}"' if output == LOGITS else "",
        )
        for output, width in output_widths(len(interface.class_names), interface.bits).items()
    ]
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {0 if interface.single else interface.max_batch}",
        "input [",
        tensor(
            INPUT,
            f"TYPE_{interface.input_type.upper()}",
            [*batch, *interface.input_shape],
            "" if interface.single else " format: FORMAT_NCHW",
        ),
        "]",
        "output [",
        ",\n".join(outputs),
        "]",
    ]
    if interface.single:
        value = f'{{ string_value: "{interface.max_batch}" }}'
        lines.append(f'parameters {{ key: "{MAX_BATCH_PARAMETER}" value {value} }}')
    text = "\n".join(lines) + "\n"
    return text if interface.single or interface.max_batch == 1 else text + BATCHING
