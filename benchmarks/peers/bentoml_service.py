"""BentoML around one ONNX session. Arguments: model file, port. Runs in an environment of its own.

BentoML's new services speak HTTP alone; its older ones carry any gRPC servicer beside their own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bentoml.legacy import Service
from tritonclient.grpc import service_pb2, service_pb2_grpc

FILE_VARIABLE = "BENCHMARK_MODEL"


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers one call."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ[FILE_VARIABLE], options, providers=["CPUExecutionProvider"]
        )

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Raw tensors in and out."""
        given = request.inputs[0]
        images = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(given.shape)
        (logits,) = self._session.run(None, {given.name: images})
        answer = service_pb2.ModelInferResponse(
            model_name=request.model_name, raw_output_contents=[logits.tobytes()]
        )
        answer.outputs.add(name="logits", datatype="FP32", shape=logits.shape)
        return answer


def main(file: str, port: str) -> None:
    """Become BentoML's server, with this module's service."""
    os.environ[FILE_VARIABLE] = file
    command = [sys.executable, "-m", "bentoml", "serve-grpc", f"{Path(__file__).stem}:service"]
    command += ["--working-dir", str(Path(__file__).parent), "--host", "127.0.0.1", "--port", port]
    os.execv(sys.executable, [*command, "--api-workers", "1"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
elif FILE_VARIABLE in os.environ:
    service = Service("plain", runners=[])
    service.mount_grpc_servicer(
        Servicer,
        add_servicer_fn=service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
        service_names=["inference.GRPCInferenceService"],
    )
