"""What a Penstock bundle promises beyond a plain ONNX model, checked before its first request."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from tritonclient.grpc import model_config_pb2

from penstock.bundle import INPUT, MANIFEST_FILE, MAX_BATCH_PARAMETER, OUTPUTS, Manifest
from penstock.errors import BundleError
from penstock.service.answers import DTYPES
from penstock.service.configuration import BACKEND, PLATFORM, ModelConfig
from penstock.service.parameters import CLASS_NAMES_PARAMETER
from penstock.service.session import Session
from penstock.service.tensors import DATATYPES, Datatype, compatible

_BY_DTYPE = {datatype.dtype: datatype for datatype in DATATYPES.values()}
_OUTPUTS: dict[str, Datatype] = {name: _BY_DTYPE[np.dtype(dtype)] for name, dtype in DTYPES.items()}


def is_contract(session: Session) -> bool:
    """Whether a graph has all outputs of a bundle's, so that it needs the manifest that belongs to them."""
    return {tensor.name for tensor in session.outputs} >= set(OUTPUTS)


def honoured_config(config: ModelConfig, manifest: Manifest, name: str, file: Path) -> ModelConfig:
    """The configuration as the service honours it.

    A graph for single images stands in the repository without a batch dimension. Since the service spreads a
    batch over runs, it announces one: the largest batch, and dims without their leading 1.

    Args:
        config: as written; its outputs may be some of the bundle's, and then the others are hidden.
        manifest: the bundle's.
        name: the model's.
        file: where the configuration stands, for messages.

    Raises:
        BundleError: it does not describe this bundle.
    """
    _check_tensors(config, manifest, file)
    full = model_config_pb2.ModelConfig()
    full.CopyFrom(config)
    full.name, full.backend, full.platform = name, BACKEND, PLATFORM
    full.max_batch_size = _max_batch(config, manifest, file)
    if manifest.single:
        for tensor in (*full.input, *full.output):
            del tensor.dims[0]
    full.input[0].format = model_config_pb2.ModelInput.FORMAT_NCHW  # a client that sends pixels asks
    full.parameters[CLASS_NAMES_PARAMETER].string_value = json.dumps(manifest.class_names)
    return full


def hide_outputs(config: ModelConfig, hidden: Collection[str], file: Path) -> None:
    """Take outputs out of a configuration that clients must not see.

    Args:
        config: as the service honours it.
        hidden: names of the outputs; they need not be there.
        file: where the configuration stands, for messages.

    Raises:
        BundleError: none would be left.
    """
    for tensor in [tensor for tensor in config.output if tensor.name in hidden]:
        config.output.remove(tensor)
    if not config.output:
        raise BundleError(f"{file} lists no outputs but {', '.join(sorted(hidden))}, which its policy hides")


def check_graph(session: Session, manifest: Manifest, file: Path) -> None:
    """Refuse, before the first request, a graph that could not answer it.

    Raises:
        BundleError: says what the graph has and what was expected.
    """
    inputs = {tensor.name: tensor for tensor in session.inputs}
    if list(inputs) != [INPUT]:
        raise BundleError(f"{file} has inputs {list(inputs)}; expected [{INPUT!r}]")
    images = inputs[INPUT]
    wanted = DATATYPES[manifest.input_type.upper()].onnx
    if (
        images.onnx != wanted
        or len(images.shape) != 4
        or not compatible(images.shape[1:], manifest.input_shape)
    ):
        raise BundleError(
            f"{file} takes {images}; {MANIFEST_FILE} promises {wanted} images {manifest.input_shape}"
        )
    if not manifest.single and images.shape[0] == 1:
        raise BundleError(f"{file} takes one image; {MANIFEST_FILE} promises {manifest.max_batch}")
    outputs = {tensor.name: tensor for tensor in session.outputs}
    for name, width in manifest.output_widths.items():
        tensor, expected = outputs.get(name), _OUTPUTS[name].onnx
        if tensor is None:
            raise BundleError(f"{file} has no output {name!r}; its outputs are {sorted(outputs)}")
        if tensor.onnx != expected or len(tensor.shape) != 2 or not compatible(tensor.shape[1:], (width,)):
            raise BundleError(f"{file} has output {name!r} of {tensor}; expected {expected} [N, {width}]")


def _check_tensors(config: ModelConfig, manifest: Manifest, file: Path) -> None:
    """Refuse a version that the model's configuration does not describe: clients believe it."""
    batch = [1] if manifest.single else []
    expected = {name: [*batch, width] for name, width in manifest.output_widths.items()}
    expected[INPUT] = [*batch, *manifest.input_shape]
    kinds = _OUTPUTS | {INPUT: DATATYPES[manifest.input_type.upper()]}
    for tensor in (*config.input, *config.output):
        if list(tensor.dims) != expected.get(tensor.name):
            raise BundleError(
                f"{file} has dims {list(tensor.dims)} for {tensor.name!r}; "
                f"the bundle has {expected.get(tensor.name, 'no such tensor')}"
            )
        kind = model_config_pb2.DataType.Name(tensor.data_type)
        if kind != kinds[tensor.name].config_name:
            raise BundleError(
                f"{file} has {kind} for {tensor.name!r}; the bundle has {kinds[tensor.name].config_name}"
            )
    inputs = [tensor.name for tensor in config.input]
    if inputs != [INPUT]:
        raise BundleError(f"{file} has inputs {inputs}; expected [{INPUT!r}]")
    if not config.output:
        raise BundleError(f"{file} has no outputs; expected some of {', '.join(OUTPUTS)}")


def _max_batch(config: ModelConfig, manifest: Manifest, file: Path) -> int:
    """Largest batch of one request: the configuration may lower what the bundle allows.

    A graph for single images has no batch of its own, so a parameter tells how far to spread.
    """
    if not manifest.single:
        name, text = "max_batch_size", str(config.max_batch_size)
    elif config.max_batch_size == 0:
        name, text = MAX_BATCH_PARAMETER, str(manifest.max_batch)
        if name in config.parameters:
            text = config.parameters[name].string_value
    else:
        raise BundleError(
            f"{file} has max_batch_size {config.max_batch_size}; "
            "expected 0, because the graph takes single images"
        )
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= manifest.max_batch):
        raise BundleError(f"{file} has {name} {text!r}; expected 1 to {manifest.max_batch}")
    return int(text)
