"""Find out, quietly, whether ONNX Runtime can use a CUDA device here.

onnxruntime-gpu lists its CUDA provider on every machine; where the driver or a library is missing, it prints to
stderr and silently runs on the CPU. So we ask the driver ourselves, and then run a graph of one node.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from dataclasses import dataclass

import numpy as np
import onnxruntime

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

# ONNX Runtime's levels run from 0, verbose, to 4, fatal. What goes wrong comes back as an exception as well.
FATAL_ONLY = 4

# y = Identity(x), both FP32 [1], as an ONNX file: IR 8, opset 17. What serves has no library that writes such files.
_IDENTITY = (
    b"\x08\x08:;\n\x10\n\x01x\x12\x01y"
    b'"\x08Identity\x12\x05probe'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"B\x04\n\x00\x10\x11"
)


@dataclass(frozen=True)
class Device:
    """Where sessions run.

    Attributes:
        provider: name of ONNX Runtime's execution provider.
        why_not_cuda: reason for the fallback to the CPU; empty where CUDA is used.
        memory_mib: of the CUDA device, what the arena of one session may take; 0 for all there is.
    """

    provider: str
    why_not_cuda: str = ""
    memory_mib: int = 0

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """Providers with their options, in order of preference; the CPU takes the operators that CUDA lacks.

        CUDA's arena takes what it is asked for: the default, the next power of two, would be twice that in the
        worst case, and what is not of one piece with anything in use cannot be given back.
        """
        if self.provider != CUDA:
            return [(CPU, {})]
        options = {"arena_extend_strategy": "kSameAsRequested"}
        if self.memory_mib:
            options["gpu_mem_limit"] = str(self.memory_mib * 2**20)
        return [(CUDA, options), (CPU, {})]


def find_device() -> Device:
    """The best device of this machine: CUDA if it works, otherwise the CPU and why."""
    onnxruntime.set_default_logger_severity(FATAL_ONLY)
    why_not = driver_problem() or provider_problem()
    return Device(CPU, why_not) if why_not else Device(CUDA)


def driver_problem() -> str:
    """What keeps the driver from offering a CUDA device; empty if nothing does."""
    if CUDA not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider (install onnxruntime-gpu)"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1 cannot be loaded)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return "the NVIDIA driver finds no device"
    return ""


def provider_problem() -> str:
    """What keeps ONNX Runtime from running a graph on a CUDA device; empty if nothing does."""
    # CUDA's libraries may come from Python packages, which the system's loader does not know. The call prints
    # what it does not find, and stdout belongs to the caller.
    with contextlib.redirect_stdout(io.StringIO()) as missing:
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    try:
        session = onnxruntime.InferenceSession(_IDENTITY, options, providers=[CUDA], enable_fallback=0)
        if CUDA in session.get_providers():
            session.run(None, {"x": np.zeros(1, dtype=np.float32)})
            return ""
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
        return f"ONNX Runtime cannot use it ({str(error).splitlines()[0][:300]})"
    hint = missing.getvalue().strip().splitlines() or ["pip install 'onnxruntime-gpu[cuda,cudnn]'"]
    return f"ONNX Runtime cannot load its CUDA provider, as if a CUDA library were missing ({hint[0]})"
