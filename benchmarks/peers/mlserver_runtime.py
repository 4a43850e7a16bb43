"""A custom runtime of MLServer around one ONNX session. Arguments: model file, port. In its own environment."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

FILE_VARIABLE = "BENCHMARK_MODEL"


class Plain(MLModel):  # type: ignore[misc]
    """One model."""

    async def load(self) -> bool:
        """Open the session."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.environ[FILE_VARIABLE], options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Raw tensors in and out."""
        images = NumpyCodec.decode_input(payload.inputs[0])
        (logits,) = self._session.run(None, {"images": images})
        outputs: list[Any] = [NumpyCodec.encode_output("logits", logits)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def main(file: str, port: int) -> None:
    """Serve until killed, without worker processes, which are slower."""
    os.environ[FILE_VARIABLE] = file
    settings = Settings(
        parallel_workers=0,
        host="127.0.0.1",
        grpc_port=port,
        http_port=port + 1,
        metrics_port=port + 2,
        grpc_max_message_length=2**26,
    )
    await MLServer(settings).start([ModelSettings(name="model", implementation=Plain)])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
