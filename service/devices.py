"""Find out, quietly, whether ONNX Runtime can use a CUDA device here.

onnxruntime-gpu lists its CUDA provider on every machine; where the driver or a library is missing, it prints
to stderr and silently runs on the CPU. So we look for the driver, a device and the libraries ourselves, in
that order, and can say what is missing.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

# ONNX Runtime's levels run from 0, verbose, to 4, fatal. What goes wrong comes back as an exception as well.
FATAL_ONLY = 4


@dataclass(frozen=True)
class Device:
    """Where sessions run.

    Attributes:
        provider: name of ONNX Runtime's execution provider.
        why_not_cuda: reason for the fallback to the CPU; empty where CUDA is used.
    """

    provider: str
    why_not_cuda: str = ""

    @property
    def providers(self) -> list[str]:
        """Providers in order of preference; the CPU takes the operators that CUDA lacks."""
        return [CUDA, CPU] if self.provider == CUDA else [CPU]


def find_device() -> Device:
    """The best device of this machine: CUDA if it works, otherwise the CPU and why."""
    onnxruntime.set_default_logger_severity(FATAL_ONLY)
    why_not = _why_not_cuda()
    return Device(CPU, why_not) if why_not else Device(CUDA)


def _why_not_cuda() -> str:
    if CUDA not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider (install onnxruntime-gpu)"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1 cannot be loaded)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return "the NVIDIA driver finds no device"
    # CUDA's libraries may come from Python packages, which the system's loader does not know.
    onnxruntime.preload_dlls()
    provider = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(provider.with_name("libonnxruntime_providers_shared.so")), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(provider))
    except OSError as error:
        missing = str(error).split(":")[0]
        return f"a CUDA library is missing ({missing}; pip install 'onnxruntime-gpu[cuda,cudnn]')"
    return ""
