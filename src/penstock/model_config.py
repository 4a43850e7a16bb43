"""``config.pbtxt``: how a model of a repository is called, in the form that Triton and the service read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from penstock import pbtxt
from penstock.errors import InvalidArgumentError
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


def contradiction(text: str, name: str, interface: Interface) -> str | None:
    """What in an edited configuration keeps a version from being served by it, if anything does.

    Tensors must be those of the graph, though outputs may be left out, which hides them; the largest batch may be
    lowered. All else is for who edits.

    Args:
        text: as it stands in the folder.
        name: of the model.
        interface: of the version.
    """
    try:
        have = pbtxt.parse(text)
        want = pbtxt.parse(config_text(name, interface))
    except InvalidArgumentError as error:
        return f"it cannot be read, {error}"
    if have.get("name", [name]) != [name]:
        return f"it is of the model {have['name'][0]!r}"
    for kind in KINDS:
        tensors = dict(_tensors(want, kind))
        for tensor, told in _tensors(have, kind):
            if told != tensors.get(tensor):
                return (
                    f"it has {kind} {tensor!r} of {_shown(told)}, and the graph {_shown(tensors.get(tensor))}"
                )
    if [tensor for tensor, _ in _tensors(have, "input")] != [INPUT]:
        return f"it has not {INPUT!r} alone as its input"
    if not have.get("output"):
        return "it has no outputs"
    return _batch_contradiction(have, interface)


KINDS = ("input", "output")
Told = tuple[object, tuple[object, ...]]
"""A tensor's type and dims, as written."""


def _tensors(config: pbtxt.Message, kind: str) -> Iterator[tuple[str, Told]]:
    """Names, types and dims of the tensors of a configuration, one kind of them."""
    for tensor in config.get(kind, []):
        if isinstance(tensor, dict):
            (name, *_), (datatype, *_) = tensor.get("name", [""]), tensor.get("data_type", [""])
            yield str(name), (datatype, tuple(tensor.get("dims", [])))


def _shown(told: Told | None) -> str:
    return "no such tensor" if told is None else f"{told[0]} {list(told[1])}"


def _batch_contradiction(config: pbtxt.Message, interface: Interface) -> str | None:
    (largest, *_) = config.get("max_batch_size", [0])
    if interface.single:
        return f"it has max_batch_size {largest}, and the graph takes single images" if largest else None
    if isinstance(largest, int) and 1 <= largest <= interface.max_batch:
        return None
    return f"it has max_batch_size {largest}, and the export a --max-batch of {interface.max_batch}"
