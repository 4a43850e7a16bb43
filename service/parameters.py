"""Names of our parameters, and which parameters a request may carry.

The protocol reserves some names; Triton's clients and tools send them even to servers without the feature
behind them, so their type is checked and their value passed over. Parameters of a caller's own are passed
over too. What would change the answer if it were there (shared memory, classification) is refused rather than
ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.errors import InvalidArgumentError, UnsupportedError

FLAGS_PARAMETER = "penstock_adversarial"
"""On every answer: ``"0,1,0"``, one per image."""

SCORES_PARAMETER = "penstock_anomaly_score"
"""On every answer: ``"0.25,9.5,0.125"``, one per image."""

CLASS_NAMES_PARAMETER = "penstock_class_names"
"""In a model's configuration: its class names as a JSON list."""

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
        UnsupportedError: an extension that this server does not have.
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
    for tensor in (*request.inputs, *request.outputs):
        _refuse_extensions(tensor)


def _refuse_extensions(tensor: Any) -> None:
    for name in tensor.parameters:
        if name.startswith("shared_memory"):
            raise UnsupportedError(
                f"tensor {tensor.name[:100]!r} asks for shared memory ({name[:100]!r}), which this "
                "server does not offer; send the data in the message"
            )
        if name == "classification":
            raise UnsupportedError(
                f"output {tensor.name[:100]!r} asks for the classification extension, which this "
                "server does not offer; ask for 'logits' and take the largest"
            )


def _shown(kind: str | None) -> str:
    return f"a {kind}" if kind else "no value"
