"""KServe's Python SDK around one ONNX session. Arguments: model file, port. Runs in an environment of its own."""

from __future__ import annotations

import sys
from typing import Any

import onnxruntime
from kserve import InferOutput, InferResponse, Model, ModelServer


class Plain(Model):  # type: ignore[misc]
    """One model."""

    def __init__(self, file: str) -> None:
        super().__init__("model")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Raw tensors in and out."""
        (logits,) = self._session.run(None, {"images": payload.inputs[0].as_numpy()})
        output = InferOutput("logits", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return InferResponse(payload.id, "model", [output], use_binary_outputs=True)


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[2]) + 1, grpc_port=int(sys.argv[2]), workers=1).start(
        [Plain(sys.argv[1])]
    )
