"""``config.pbtxt``: how a model of a repository is called, in the form that Triton and the service read."""

from __future__ import annotations

from penstock.manifest import FLAG, INPUT, LOGITS, PATH, Manifest

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MAX_BATCH_PARAMETER = "penstock_max_batch"
BATCHING = "dynamic_batching { }\n"
"""Lets requests that wait at the same time share a run, and none wait for others: docs/decisions/0012."""


def config_text(name: str, manifest: Manifest) -> str:
    """The ``config.pbtxt`` that Triton and the service read.

    A graph for single images has no batch dimension of its own to announce: its dims include the 1, and
    `MAX_BATCH_PARAMETER` tells the service how far it may spread. Triton knows formats of three dims only, so that
    such a graph's stands nowhere; the service announces it for both.
    """
    batch = [1] if manifest.single else []
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
        for output, width in manifest.output_widths.items()
    ]
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {0 if manifest.single else manifest.max_batch}",
        "input [",
        tensor(
            INPUT,
            f"TYPE_{manifest.input_type.upper()}",
            [*batch, *manifest.input_shape],
            "" if manifest.single else " format: FORMAT_NCHW",
        ),
        "]",
        "output [",
        ",\n".join(outputs),
        "]",
    ]
    if manifest.single:
        value = f'{{ string_value: "{manifest.max_batch}" }}'
        lines.append(f'parameters {{ key: "{MAX_BATCH_PARAMETER}" value {value} }}')
    text = "\n".join(lines) + "\n"
    return text if manifest.single or manifest.max_batch == 1 else text + BATCHING
