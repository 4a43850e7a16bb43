"""One ONNX Runtime session for one bundle."""

from __future__ import annotations

import numpy as np
import onnxruntime

from penstock import bundle
from penstock.bundle import Bundle, Manifest
from penstock.errors import BundleError
from penstock.service.answers import DTYPES, INPUT_DTYPES, Answer, Images
from penstock.service.devices import CUDA, FATAL_ONLY, Device

_ORT_TYPES = {np.float32: "tensor(float)", np.uint8: "tensor(uint8)", np.bool_: "tensor(bool)"}


class Session:
    """Runs a bundle's graph; may be called from many threads at once.

    Args:
        source: a bundle whose hash was checked.
        device: where to run.
        threads: threads of one run.

    Raises:
        BundleError: ONNX Runtime refuses the file, or the graph does not keep the contract.
    """

    def __init__(self, source: Bundle, device: Device, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = FATAL_ONLY
        # Threads that spin while they wait for work would starve the other models of this server.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(source.model_file), options, providers=device.providers, enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
            raise BundleError(f"{source.model_file} is refused by ONNX Runtime: {error}") from error
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = FATAL_ONLY
        _check_contract(self._session, source.manifest, str(source.model_file))

    @property
    def on_cuda(self) -> bool:
        """Whether the session really runs on a CUDA device."""
        return CUDA in self._session.get_providers()

    def stop(self) -> None:
        """End running runs at their next operator, and refuse new ones."""
        self._run_options.terminate = True

    def run(self, images: Images) -> Answer:
        """Run the graph once.

        Args:
            images: ``[N, C, H, W]`` as the bundle takes them; ``N`` is 1 for a graph that takes single images.
        """
        outputs = self._session.run(list(bundle.OUTPUTS), {bundle.INPUT: images}, self._run_options)
        return Answer(**dict(zip(bundle.OUTPUTS, outputs, strict=True)))


def _check_contract(session: onnxruntime.InferenceSession, manifest: Manifest, file: str) -> None:
    """Refuse, before the first request, a graph that could not answer it."""
    inputs = {node.name: (node.type, node.shape) for node in session.get_inputs()}
    if list(inputs) != [bundle.INPUT]:
        raise BundleError(f"{file} has inputs {list(inputs)}; expected [{bundle.INPUT!r}]")
    kind, shape = inputs[bundle.INPUT]
    wanted = _ORT_TYPES[INPUT_DTYPES[manifest.input_type]]
    if kind != wanted or len(shape) != 4 or not _fits(shape[1:], manifest.input_shape):
        raise BundleError(
            f"{file} takes {kind} {shape}; "
            f"{bundle.MANIFEST_FILE} promises {wanted} images {manifest.input_shape}"
        )
    if not manifest.single and shape[0] == 1:
        raise BundleError(f"{file} takes one image; {bundle.MANIFEST_FILE} promises {manifest.max_batch}")
    outputs = {node.name: node for node in session.get_outputs()}
    for name, width in manifest.output_widths.items():
        node, expected = outputs.get(name), _ORT_TYPES[DTYPES[name]]
        if node is None:
            raise BundleError(f"{file} has no output {name!r}; its outputs are {sorted(outputs)}")
        if node.type != expected or len(node.shape) != 2 or not _fits(node.shape[1:], (width,)):
            raise BundleError(
                f"{file} has output {name!r} of {node.type} {node.shape}; expected {expected} [N, {width}]"
            )


def _fits(shape: list[int | str | None], expected: tuple[int, ...]) -> bool:
    """Whether a graph's dimensions, some of them symbolic, allow the expected ones."""
    return len(shape) == len(expected) and all(
        not isinstance(dim, int) or dim == want for dim, want in zip(shape, expected, strict=True)
    )
