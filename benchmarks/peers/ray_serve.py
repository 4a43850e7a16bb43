"""Ray Serve around one ONNX session, as its guide for gRPC shows. Arguments: model file, port. In its own environment.

Ray pickles messages on their way from its proxy to a replica, and pickle looks for the modules that tritonclient's
messages name, which are not there: they are made here.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import ray
from ray import serve
from ray.serve.config import gRPCOptions


class Plain:
    """One model."""

    def __init__(self, file: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    async def ModelInfer(self, request: Any) -> Any:
        """Raw tensors in and out."""
        from tritonclient.grpc import service_pb2

        given = request.inputs[0]
        images = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(given.shape)
        (logits,) = self._session.run(None, {given.name: images})
        answer = service_pb2.ModelInferResponse(
            model_name=request.model_name, raw_output_contents=[logits.tobytes()]
        )
        answer.outputs.add(name="logits", datatype="FP32", shape=logits.shape)
        return answer


def main(file: str, port: int) -> None:
    """Serve until killed."""
    with tempfile.TemporaryDirectory() as folder:
        for name, module in (("grpc_service_pb2", "service_pb2"), ("model_config_pb2", "model_config_pb2")):
            shim = f"from tritonclient.grpc.{module} import *\n"
            (Path(folder) / f"{name}.py").write_text(shim)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
        sys.path.insert(0, folder)
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
        add = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"
        serve.start(
            grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[add]), http_options={"port": 0}
        )
        serve.run(serve.deployment(Plain, max_ongoing_requests=64).bind(file), blocking=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
