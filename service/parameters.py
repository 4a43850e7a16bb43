"""Names of our parameters, and which parameters a request may carry.

The protocol reserves some names; Triton's clients and tools send them even to servers without the feature
behind them, so their type is checked and their value passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.errors import InvalidArgumentError
from penstock.service.shared_memory import Place

FLAGS_PARAMETER = "penstock_adversarial"
"""On every answer: ``"0,1,0"``, one per image."""

SCORES_PARAMETER = "penstock_anomaly_score"
"""On every answer: ``"0.25,9.5,0.125"``, one per image."""

CLASS_NAMES_PARAMETER = "penstock_class_names"
"""In a model's configuration: its class names as a JSON list."""

_REGION = "shared_memory_region"
_WHOLE = ("int64_param", "uint64_param")
_RESERVED: Mapping[str, tuple[str, ...]] = {
    "priority": _WHOLE,
    "timeout": _WHOLE,
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "triton_enable_empty_final_response": ("bool_param",),
    "binary_data_output": ("bool_param",),
}
_CUSTOM = ("bool_param", "int64_param", "string_param", "double_param")


def check_request_parameters(request: Any) -> None:
    """Check the parameters of a ``ModelInferRequest`` and of its tensors.

    Raises:
        InvalidArgumentError: a reserved name with a value of another kind, or an unknown ``triton_`` name.
    """
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if name.startswith("triton_") and name not in _RESERVED:
            raise InvalidArgumentError(
                f"parameter {name[:100]!r}: keys that begin with 'triton_' are reserved, "
                "and this one is not known"
            )
        allowed = _RESERVED.get(name, _CUSTOM)
        if kind not in allowed:
            raise InvalidArgumentError(
                f"parameter {name[:100]!r} has {_shown(kind)}; expected {' or '.join(map(_shown, allowed))}"
            )
        if allowed is _WHOLE and getattr(parameter, kind) < 0:
            raise InvalidArgumentError(
                f"parameter {name!r} is {getattr(parameter, kind)}; expected 0 or more"
            )


def whole_parameter(request: Any, name: str) -> int:
    """A parameter of a request that was checked, such as ``priority``; 0 if it is not there."""
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    return int(getattr(parameter, parameter.WhichOneof("parameter_choice")))


def load_parameters(request: Any) -> dict[str, Any]:
    """What a request to load a model carries: ``config`` and ``files`` as `ModelControl.load` takes them.

    Raises:
        InvalidArgumentError: a value of another kind, or an unknown parameter.
    """
    config, files = "", {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if name == "config" and kind == "string_param":
            config = parameter.string_param
        elif name.startswith("file:") and kind == "bytes_param":
            files[name.removeprefix("file:")] = parameter.bytes_param
        else:
            raise InvalidArgumentError(
                f"parameter {name[:100]!r} with {_shown(kind)} is not known; expected 'config' with a string_param, "
                "or 'file:<path>' with a bytes_param"
            )
    return {"config": config, "files": files}


def log_values(request: Any) -> dict[str, bool | int | str]:
    """The log settings that a request changes; those without a value only ask."""
    values = {}
    for name, setting in request.settings.items():
        kind = setting.WhichOneof("parameter_choice")
        if kind is not None:
            values[name] = getattr(setting, kind)
    return values


def class_count(output: Any) -> int:
    """How many classes a requested output asks for; 0 if it asks for the values themselves.

    Raises:
        InvalidArgumentError: not a whole number above 0.
    """
    if "classification" not in output.parameters:
        return 0
    count = _whole(output, "classification")
    if count < 1:
        raise InvalidArgumentError(
            f"output {output.name[:100]!r} asks for classification of {count} classes; expected 1 or more"
        )
    return count


def tensor_place(tensor: Any) -> Place | None:
    """Where in shared memory a tensor lies or is wanted; ``None`` for one in the message.

    Raises:
        InvalidArgumentError: the region is no text, or the size is missing.
    """
    if not tensor.parameters:
        return None
    given = [name for name in tensor.parameters if name.startswith("shared_memory")]
    if not given:
        return None
    region = tensor.parameters[_REGION].string_param if _REGION in given else ""
    if not region or "shared_memory_byte_size" not in given:
        raise InvalidArgumentError(
            f"tensor {tensor.name[:100]!r} has {', '.join(sorted(name[:50] for name in given))}; expected "
            "shared_memory_region with a text and shared_memory_byte_size with a whole number"
        )
    offset = _whole(tensor, "shared_memory_offset") if "shared_memory_offset" in given else 0
    return Place(region, offset, _whole(tensor, "shared_memory_byte_size"))


def _whole(tensor: Any, name: str) -> int:
    parameter = tensor.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in _WHOLE or getattr(parameter, kind) < 0:
        raise InvalidArgumentError(
            f"tensor {tensor.name[:100]!r} has a {name} that is no whole number of 0 or more "
            f"({_shown(kind)}); expected an int64_param"
        )
    return int(getattr(parameter, kind))


def _shown(kind: str | None) -> str:
    return f"a {kind}" if kind else "no value"
