"""What ONNX's checker and ONNX Runtime refuse, told as errors of ours: what was done, which node, what to do.

Both name the node in their messages.
"""

from __future__ import annotations

from onnxruntime.capi import onnxruntime_pybind11_state as runtime_state

from penstock.errors import PenstockError, VerificationError

# They have no base of their own.
ENGINE_ERRORS: tuple[type[Exception], ...] = tuple(
    value
    for value in vars(runtime_state).values()
    if isinstance(value, type) and issubclass(value, Exception)
)


def told(kind: type[PenstockError], what: str, error: Exception, remedy: str) -> PenstockError:
    """An error of an engine as one of ours, on one line.

    Args:
        kind: of the new error.
        what: what failed, as the beginning of its message.
        error: what the engine raised.
        remedy: what to do.
    """
    return kind(f"{what}: {' '.join(str(error).split())}: {remedy}")


def check_graph(content: bytes) -> None:
    """Let ONNX's checker look at a finished graph, the shapes of all its values included.

    Raises:
        VerificationError: it refuses the graph; names the node.
    """
    import onnx  # what only runs graphs does without

    try:
        onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        remedy = "nothing is written; export with another --lowering"
        raise told(VerificationError, "ONNX's checker refuses the graph", error, remedy) from error
