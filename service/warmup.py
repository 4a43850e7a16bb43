"""Run a graph before its first request, because the first run takes longer than those after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import model_config_pb2

from penstock.bundle import CONFIG_FILE
from penstock.errors import BundleError, InvalidArgumentError
from penstock.service.configuration import ModelConfig
from penstock.service.session import Session
from penstock.service.tensors import BY_CONFIG, Array, Datatype, Tensors, TensorSpec, decode

log = logging.getLogger(__name__)

_FOLDER = "warmup"  # Triton's, in the model's folder, for files with input data


def warm_up(
    session: Session, config: ModelConfig, inputs: Sequence[TensorSpec], home: Path, *, single: bool
) -> None:
    """Run the samples of the configuration, or one of zeros if it has none.

    Args:
        session: the graph.
        config: the model's, completed.
        inputs: the model's.
        home: the model's folder.
        single: whether the graph takes one row of a batch.

    Raises:
        BundleError: a sample of the configuration is wrong, or cannot be run.
    """
    outputs = [tensor.name for tensor in config.output]
    if not config.model_warmup:
        zeros = {
            spec.name: _zeros(
                spec.datatype, _shape(spec, [1] * bool(config.max_batch_size), _closed(spec.shape))
            )
            for spec in inputs
        }
        try:
            session.run(zeros, outputs)
        except Exception as error:  # a graph may well have something against zeros
            log.info("model %s: a run of zeros to warm up failed (%s)", config.name, str(error)[:300])
        return
    for name, sample, count in _samples(config, inputs, home, single):
        try:
            for _ in range(count):
                session.run(sample, outputs)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
            raise BundleError(f"{CONFIG_FILE}: warm-up sample {name!r} failed ({error})") from error


def _samples(
    config: ModelConfig, inputs: Sequence[TensorSpec], home: Path, single: bool
) -> Iterator[tuple[str, Tensors, int]]:
    specs = {spec.name: spec for spec in inputs}
    for warmup in config.model_warmup:
        batch = [] if not config.max_batch_size else [1 if single else max(1, warmup.batch_size)]
        if set(warmup.inputs) - set(specs):
            raise BundleError(
                f"{CONFIG_FILE}: warm-up sample {warmup.name!r} has inputs {sorted(warmup.inputs)}; "
                f"the model has {sorted(specs)}"
            )
        sample = {
            name: _values(tensor, specs[name], batch, home / _FOLDER)
            for name, tensor in warmup.inputs.items()
        }
        yield warmup.name, sample, max(1, warmup.count)


def _values(tensor: Any, spec: TensorSpec, batch: list[int], folder: Path) -> Array:
    kind = BY_CONFIG.get(model_config_pb2.DataType.Name(tensor.data_type))
    if kind != spec.datatype or not spec.allows(tuple(tensor.dims)):
        raise BundleError(
            f"{CONFIG_FILE}: warm-up has {kind} {list(tensor.dims)} for {spec.name!r}, "
            f"which is {spec.datatype} {list(spec.shape)}"
        )
    shape = _shape(spec, batch, tuple(tensor.dims))
    source = tensor.WhichOneof("input_data_type")
    if source == "random_data" and not kind.is_text:
        return np.random.default_rng(0).integers(0, 2, size=shape).astype(kind.dtype)
    if source != "input_data_file":
        return _zeros(kind, shape)
    name = tensor.input_data_file
    if Path(name).name != name:
        raise BundleError(f"{CONFIG_FILE} has input_data_file {name!r}; expected a plain file name")
    try:
        return decode((folder / name).read_bytes(), kind, shape, spec.name)
    except (OSError, InvalidArgumentError) as error:
        raise BundleError(f"{folder / name} cannot be used to warm up ({error})") from error


def _shape(spec: TensorSpec, batch: list[int], dims: tuple[int, ...]) -> tuple[int, ...]:
    return (*batch, *(dims if spec.graph_shape is None else _closed(spec.graph_shape)))


def _closed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without open dimensions."""
    return tuple(1 if dim == -1 else dim for dim in shape)


def _zeros(datatype: Datatype, shape: tuple[int, ...]) -> Array:
    # Text that is read as a number must hold one.
    return np.full(shape, "0" if datatype.is_text else 0, dtype=datatype.dtype)
