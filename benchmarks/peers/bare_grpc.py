"""The floor: a bare ``grpc.aio`` server around one ONNX session, without a check. Arguments: model file, port."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import numpy as np
import onnxruntime
from tritonclient.grpc import service_pb2, service_pb2_grpc


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers one call."""

    def __init__(self, file: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Bytes in, bytes out."""
        given = request.inputs[0]
        images = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(given.shape)
        (logits,) = self._session.run(None, {given.name: images})
        answer = service_pb2.ModelInferResponse(
            model_name=request.model_name, raw_output_contents=[logits.tobytes()]
        )
        answer.outputs.add(name="logits", datatype="FP32", shape=logits.shape)
        return answer


async def main(file: str, port: str) -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(file), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
