"""``config.pbtxt``: read, completed from the graph where it is silent, and checked against the graph.

The file and its meaning are Triton's. What it does not say is taken from the graph as Triton's auto-completion
does, with one difference. There, the first dimension is the batch if it is open in every tensor; but the rows of an
output may be what was found in the input, and requests that shared a run would be given each other's. Here it must also
be known to be one and the same dimension.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from penstock.bundle import CONFIG_FILE, MODEL_FILE
from penstock.errors import BundleError
from penstock.service.session import GraphTensor
from penstock.service.tensors import BY_CONFIG, Datatype, TensorSpec, compatible

log = logging.getLogger(__name__)

ModelConfig = Any  # model_config_pb2.ModelConfig, whose module has no types

BACKEND, PLATFORM = "onnxruntime", "onnxruntime_onnx"
DEFAULT_MAX_BATCH = (
    4  # Triton's, for a model that takes batches and whose configuration does not say how large
)


def read_config(home: Path) -> ModelConfig:
    """The configuration of a model as it stands in its folder; an empty one if there is none.

    Raises:
        BundleError: it cannot be read, or belongs to another model or backend.
    """
    file = home / CONFIG_FILE
    config = model_config_pb2.ModelConfig()
    try:
        if file.exists():
            text_format.Parse(file.read_text(encoding="utf-8"), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise BundleError(f"{file} cannot be read ({error}): mend it or export again") from error
    check_identity(config, home.name)
    return config


def check_identity(config: ModelConfig, name: str) -> None:
    """Refuse a configuration of another model, or for another backend than ONNX Runtime.

    Raises:
        BundleError: says what the configuration has.
    """
    if config.name not in ("", name):
        raise BundleError(f"{CONFIG_FILE} names the model {config.name!r}; its folder is {name!r}")
    if config.backend not in ("", BACKEND) or config.platform not in ("", PLATFORM):
        raise BundleError(
            f"{CONFIG_FILE} asks for backend {config.backend!r} and platform {config.platform!r}; "
            f"expected {BACKEND!r} and {PLATFORM!r}, the only ones here"
        )


def model_file(config: ModelConfig, folder: Path) -> Path:
    """The ONNX file of a version folder.

    Raises:
        BundleError: it is not there, or its name would lead out of the folder.
    """
    name = config.default_model_filename or MODEL_FILE
    if Path(name).name != name:
        raise BundleError(f"{CONFIG_FILE} has default_model_filename {name!r}; expected a plain file name")
    if not (folder / name).exists():
        raise BundleError(f"{folder} has no {name}")
    return folder / name


def wanted_versions(config: ModelConfig, found: Sequence[int]) -> list[int]:
    """The versions that the policy of a configuration picks, ascending; all of them if it has none.

    Triton serves only the latest by default. Here a model without a policy serves all its versions.
    """
    policy = config.version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "specific":
        return sorted(set(found) & set(policy.specific.versions))
    if kind == "latest":
        return sorted(found)[-max(1, policy.latest.num_versions) :]
    return sorted(found)


def completed(
    config: ModelConfig, name: str, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
) -> ModelConfig:
    """A copy of a configuration in which nothing is left open.

    Args:
        config: as written; may be empty.
        name: the model's.
        inputs: the graph's.
        outputs: the graph's.

    Raises:
        BundleError: it does not fit the graph, or the graph has types that cannot be served.
    """
    full = model_config_pb2.ModelConfig()
    full.CopyFrom(config)
    full.name, full.backend, full.platform = name, BACKEND, PLATFORM
    silent = not config.input and not config.output and not config.max_batch_size
    if silent and _takes_batches(name, (*inputs, *outputs)):
        full.max_batch_size = DEFAULT_MAX_BATCH
        if not full.HasField("dynamic_batching"):
            full.dynamic_batching.SetInParent()
    batched = full.max_batch_size > 0
    for described, tensors in ((full.input, inputs), (full.output, outputs)):
        if not described:
            for tensor in tensors:
                _describe(described.add(), tensor, batched)
    _check(full, inputs, outputs)
    return full


def limit_batch(config: ModelConfig, largest: int) -> None:
    """Lower the largest batch of a configuration where it is above this; 0 is no limit."""
    if largest:
        config.max_batch_size = min(config.max_batch_size, largest)


def instances(config: ModelConfig, default: int) -> int:
    """How many runs happen at once: the sum of the instance groups, or the default if there are none."""
    return sum(max(1, group.count) for group in config.instance_group) or default


def on_cpu(config: ModelConfig) -> bool:
    """Whether the configuration asks for the CPU, even where there is a GPU."""
    groups = config.instance_group
    return bool(groups) and all(group.kind == group.KIND_CPU for group in groups)


def threads(config: ModelConfig, default: int) -> int:
    """Threads of one run: Triton's parameter ``intra_op_thread_count``, or the default.

    Raises:
        BundleError: it is no whole number.
    """
    name = "intra_op_thread_count"
    text = config.parameters[name].string_value if name in config.parameters else "0"
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise BundleError(f"{CONFIG_FILE} has {name} {text!r}; expected a whole number")
    return int(text) or default


def specs(described: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """The inputs or outputs of a completed configuration."""
    return tuple(
        TensorSpec(
            name=tensor.name,
            datatype=_datatype(tensor),
            shape=tuple(tensor.dims),
            graph_shape=tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None,
            optional=getattr(tensor, "optional", False),
        )
        for tensor in described
    )


def read_labels(config: ModelConfig, home: Path) -> dict[str, tuple[str, ...]]:
    """Class names by output, from the files that the configuration names.

    Raises:
        BundleError: a file cannot be read, or its name would lead out of the model's folder.
    """
    labels = {}
    for tensor in config.output:
        name = tensor.label_filename
        if not name:
            continue
        if Path(name).name != name:
            raise BundleError(f"{CONFIG_FILE} has label_filename {name!r}; expected a plain file name")
        try:
            labels[tensor.name] = tuple((home / name).read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{home / name} cannot be read ({error})") from error
    return labels


def _takes_batches(model: str, tensors: Sequence[GraphTensor]) -> bool:
    """Whether the first dimension of all tensors is one and the same, and is nowhere but there."""
    if not all(tensor.shape[:1] == (-1,) for tensor in tensors):
        return False
    names = {tensor.symbols[0] for tensor in tensors}
    inner = {symbol for tensor in tensors for symbol in tensor.symbols[1:]}
    if len(names) == 1 and names.isdisjoint({"", *inner}):
        return True
    log.info(
        "model %s: its first dimensions are open, but nothing says that they are one batch, so its requests share no "
        "runs; if they are, say so with max_batch_size in its %s",
        model,
        CONFIG_FILE,
    )
    return False


def _describe(described: Any, tensor: GraphTensor, batched: bool) -> None:
    if tensor.datatype is None:
        raise BundleError(f"the graph has {tensor.name!r} of {tensor}, a type that cannot be served")
    described.name = tensor.name
    described.data_type = model_config_pb2.DataType.Value(tensor.datatype.config_name)
    dims = tensor.shape[1:] if batched else tensor.shape
    if not dims:  # the protocol has no dims for a scalar: Triton announces one element
        described.reshape.SetInParent()
        dims = (1,)
    described.dims.extend(dims)


def _check(config: ModelConfig, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> None:
    if config.max_batch_size < 0:
        raise BundleError(f"{CONFIG_FILE} has max_batch_size {config.max_batch_size}; expected 0 or more")
    missing = {tensor.name for tensor in inputs} - {tensor.name for tensor in config.input}
    if missing:
        raise BundleError(f"{CONFIG_FILE} lacks the graph's inputs {sorted(missing)}")
    batch = (-1,) if config.max_batch_size else ()
    for described, tensors in ((config.input, inputs), (config.output, outputs)):
        graph = {tensor.name: tensor for tensor in tensors}
        for spec in specs(described):
            if spec.name not in graph:
                raise BundleError(f"{CONFIG_FILE} has {spec.name!r}; the graph has {sorted(graph)}")
            tensor = graph[spec.name]
            dims = (*batch, *(spec.shape if spec.graph_shape is None else spec.graph_shape))
            if tensor.datatype != spec.datatype or not compatible(dims, tensor.shape):
                raise BundleError(
                    f"{CONFIG_FILE} has {spec.name!r} of {spec.datatype.onnx} {list(dims)}, the batch included; "
                    f"the graph has {tensor}"
                )
            if config.max_batch_size and tensor.shape[0] != -1:
                raise BundleError(
                    f"{CONFIG_FILE} has max_batch_size {config.max_batch_size}; expected 0, because the graph "
                    f"has {spec.name!r} of {tensor}, whose first dimension is fixed"
                )


def _datatype(tensor: Any) -> Datatype:
    kind = model_config_pb2.DataType.Name(tensor.data_type)
    if kind not in BY_CONFIG:
        raise BundleError(
            f"{CONFIG_FILE} has {tensor.name!r} of {kind}; expected one of {', '.join(BY_CONFIG)}"
        )
    return BY_CONFIG[kind]
