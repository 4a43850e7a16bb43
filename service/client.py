"""Clients for a running server: images to answers, and the path service, typed.

Numpy arrays and dataclasses come out, and Penstock's errors: the same types that the server raised.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import tritonclient.grpc
from tritonclient.grpc.model_config_pb2 import DataType
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from penstock import bundle
from penstock.errors import UnsupportedError
from penstock.service.answers import INPUT_DTYPES, Answer, Images
from penstock.service.credentials import NOTHING, Credentials
from penstock.service.explanations import ImageExplanation, image_explanation
from penstock.service.flag_records import WATCHING, FlagRecord, flag_record
from penstock.service.parameters import CLASS_NAMES_PARAMETER
from penstock.service.profile import ClassProfile, Profile
from penstock.service.statuses import error_of
from penstock.service.v1 import paths_pb2, paths_pb2_grpc

# What tritonclient sets by itself, unless it is given options.
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a caller needs to know about a served model.

    Attributes:
        input_shape: ``(channels, height, width)`` of one image.
        input_type: ``fp32`` for values in 0..1, ``uint8`` for pixels in 0..255.
        max_batch: largest batch of one request.
        class_names: one per logit; empty if the server does not tell.
    """

    input_shape: tuple[int, int, int]
    input_type: str
    max_batch: int
    class_names: tuple[str, ...]


def model_info(
    url: str, model: str, *, timeout: float = 30.0, credentials: Credentials = NOTHING
) -> ModelInfo:
    """Ask a server about one of its models.

    Raises:
        PenstockError: the server cannot be reached, does not know the model, or the model takes no images.
    """
    headers = dict(credentials.metadata)
    with _connected(url, credentials) as client:
        config = client.get_model_config(model, headers=headers, client_timeout=timeout).config
    inputs = {
        tensor.name: (list(tensor.dims), DataType.Name(tensor.data_type).removeprefix("TYPE_").lower())
        for tensor in config.input
    }
    dims, kind = inputs.get(bundle.INPUT, ([], ""))
    if len(dims) < 3 or kind not in INPUT_DTYPES:
        takes = ", ".join(f"{name} {kind} {dims}" for name, (dims, kind) in inputs.items())
        raise UnsupportedError(f"{url}: model {model!r} takes {takes}; expected images as 'images'")
    # A stock Triton announces a graph for single images with its batch dimension, the 1.
    channels, height, width = dims[-3:]
    names = config.parameters[CLASS_NAMES_PARAMETER].string_value
    return ModelInfo(
        input_shape=(channels, height, width),
        input_type=kind,
        max_batch=max(1, config.max_batch_size),
        class_names=tuple(json.loads(names)) if names else (),
    )


def infer(
    url: str,
    model: str,
    images: Images,
    *,
    version: str = "",
    timeout: float = 30.0,
    credentials: Credentials = NOTHING,
) -> Answer:
    """Send one batch.

    Args:
        url: ``HOST:PORT`` of the server.
        model: model name.
        images: ``[N, C, H, W]`` float32 with values in 0..1, or uint8, as the model takes them.
        version: version number; the latest by default.
        timeout: seconds until the request is given up.
        credentials: for servers that ask for some.

    Raises:
        FlaggedError: images are flagged, and the model refuses such requests.
        UnsupportedError: the model does not show its flags.
        PenstockError: the server cannot be reached or refuses; the type says which.
    """
    tensor = tritonclient.grpc.InferInput(bundle.INPUT, list(images.shape), np_to_triton_dtype(images.dtype))
    tensor.set_data_from_numpy(images)
    with _connected(url, credentials) as client:
        result = client.infer(
            model,
            [tensor],
            model_version=version,
            headers=dict(credentials.metadata),
            client_timeout=timeout,
        )
    hidden = [name for name in bundle.OUTPUTS if result.as_numpy(name) is None]
    if hidden:
        raise UnsupportedError(f"{url}: model {model!r} does not answer with {', '.join(hidden)}")
    return Answer(**{name: result.as_numpy(name) for name in bundle.OUTPUTS})


class PathClient:
    """Client of ``penstock.service.v1.PathService``; a context manager.

    Args:
        url: ``HOST:PORT`` of the server.
        timeout: seconds that one call may take; watching has no end.
        credentials: for servers that ask for some.
    """

    def __init__(self, url: str, *, timeout: float = 30.0, credentials: Credentials = NOTHING) -> None:
        self._channel = credentials.channel(url)
        self._metadata = credentials.metadata
        self._stub = paths_pb2_grpc.PathServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def path_profile(self, model: str, version: str = "") -> Profile:
        """What the recent inputs of a model looked like.

        Raises:
            PenstockError: the server cannot be reached, or does not know the model.
        """
        request = paths_pb2.GetPathProfileRequest(model_name=model, model_version=version)
        with _translated():
            reply = self._stub.GetPathProfile(request, timeout=self._timeout, metadata=self._metadata)
        return Profile(
            window=reply.window,
            active_macs=reply.active_macs,
            flag_rate=reply.flag_rate,
            layer_density={layer.name: layer.density for layer in reply.layers},
            classes=tuple(
                ClassProfile(name=entry.name, count=entry.count, flag_rate=entry.flag_rate)
                for entry in reply.classes
            ),
            prototype_counts={
                layer.name: tuple(layer.prototype_counts) for layer in reply.layers if layer.prototype_counts
            },
        )

    def watch_flags(self, model: str = "", version: str = "") -> Iterator[FlagRecord]:
        """The images that are flagged from now on: none is missed once this returns.

        Args:
            model: only this model's; empty: all models'.
            version: only this version's; empty: all versions'.

        Returns:
            Records without end; closing the client ends them. While reading, `PenstockError` if the server stops
            or drops this reader for being too slow.

        Raises:
            PenstockError: the server cannot be reached, does not know the model, or has readers enough.
        """
        request = paths_pb2.WatchFlagsRequest(model_name=model, model_version=version)
        call = self._stub.WatchFlags(request, metadata=self._metadata)
        # A refusal has initial metadata too, empty ones, which may come before its status.
        if not set(WATCHING) <= {tuple(entry) for entry in call.initial_metadata()}:
            raise error_of(call.code(), call.details() or "")
        return self._records(call)

    def _records(self, call: Any) -> Iterator[FlagRecord]:
        try:
            with _translated():
                for message in call:
                    yield flag_record(message)
        finally:
            call.cancel()

    def explain(
        self, model: str, images: Images, version: str = "", *, filters: int = 10, classes: int = 3
    ) -> list[ImageExplanation]:
        """Where the scores of images come from.

        Args:
            model: model name.
            images: ``[N, C, H, W]`` float32 with values in 0..1, or uint8, as the model takes them.
            version: version number; the latest by default.
            filters: how many to name per image.
            classes: how many to name per image.

        Raises:
            UnsupportedError: the model has no detector, or its bundle is too old to explain it.
            PenstockError: the server cannot be reached or refuses; the type says which.
        """
        request = paths_pb2.ExplainRequest(
            model_name=model,
            model_version=version,
            datatype=np_to_triton_dtype(images.dtype),
            shape=images.shape,
            images=images.astype(images.dtype.newbyteorder("<"), copy=False).tobytes(),
            filters=filters,
            classes=classes,
        )
        with _translated():
            reply = self._stub.Explain(request, timeout=self._timeout, metadata=self._metadata)
        return [image_explanation(image) for image in reply.images]


@contextmanager
def _translated() -> Iterator[None]:
    """Gives gRPC's errors the types that the server raised."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_of(error.code(), error.details() or "") from None


@contextmanager
def _connected(
    url: str, credentials: Credentials = NOTHING
) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    """A connection whose failures are ours; tritonclient tells the status as ``StatusCode.NOT_FOUND``."""
    options = [*_UNLIMITED, *credentials.options]
    try:
        with tritonclient.grpc.InferenceServerClient(
            url, creds=credentials.tls, channel_args=options
        ) as client:
            yield client
    except InferenceServerException as error:
        name = (error.status() or "").removeprefix("StatusCode.")
        code = grpc.StatusCode.__members__.get(name, grpc.StatusCode.UNKNOWN)
        raise error_of(code, f"{url}: {error.message()}") from None
