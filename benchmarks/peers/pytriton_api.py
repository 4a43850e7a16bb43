"""PyTriton, a C++ front end, around one ONNX session. Arguments: model file, port. In its own environment.

Triton's Python backend brings a libpython of its own, and runs it with the standard library of this interpreter. Where
this interpreter's patch version is another, that fails ("'_thread.RLock' object has no attribute '_recursion_count'"):
the interpreter's own libpython must come first, which only the environment of a new process can say.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import Any

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main(file: str, port: int) -> None:
    """Serve until killed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    shape = tuple(session.get_inputs()[0].shape[1:])

    @batch  # type: ignore[untyped-decorator]
    def run(images: Any) -> list[Any]:
        found: list[Any] = session.run(None, {"images": images})
        return found

    config = TritonConfig(grpc_port=port, http_port=port + 1, metrics_port=port + 2)
    with Triton(config=config) as triton:
        triton.bind(
            "model",
            run,
            inputs=[Tensor(name="images", dtype=np.float32, shape=shape)],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=8, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    own, path = str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")
    if own not in path.split(os.pathsep):
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, (own, path)))
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main(sys.argv[1], int(sys.argv[2]))
