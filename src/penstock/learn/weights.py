"""Weights of dense networks that a decoupling starts from.

Four kinds of files are read: PyTorch's, with a state dict or a dict that holds one as ``state_dict``; safetensors,
plain or a checkpoint of ours, whose dense network is meant; ONNX files whose initializers bear the names of the state
dict; and ONNX files of the Caffe-trained SqueezeNet 1.1.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from penstock import zoo
from penstock.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from penstock.nn.checkpoint import ZOO_PREFIX
from penstock.nn.squeezenet import from_caffe, is_caffe
from penstock.nn.tensor_file import read_content, with_prefix

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of torchvision's networks that only help in training
DENSE = "dense"  # what names of tensors of the dense network begin with in a checkpoint


def load_weights(network: nn.Module, file: Path, *, fresh_classifier: bool = False) -> None:
    """Load a dense network's published weights.

    Names may begin with ``module.``, as DataParallel saves them. The normalisation constants may be missing, since the
    backbone has its own, and so may the batch norms' counters, which PyTorch before 0.4.1 did not save. When the
    weights do not fit, the network stays as it was.

    Args:
        network: where the weights go.
        file: PyTorch's, or known by its ending ``.safetensors`` or ``.onnx``.
        fresh_classifier: leave the network's last layer as it is, whatever the file has in its place: the start for
            other classes than those that the file was trained on.

    Raises:
        InvalidArgumentError: the file holds no weights, or they do not fit the network.
        UnsupportedError: an ONNX file, and onnx is not installed.
    """
    own = network.state_dict()
    state = {
        name: tensor for name, tensor in _read(file).items() if name in own or not name.startswith(AUXILIARY)
    }
    kept = {name for name in own if name.startswith("normalize.") or name.endswith(".num_batches_tracked")}
    kept -= set(state)
    if fresh_classifier:
        last = _last_layer(network)
        kept |= {name for name in own if name.startswith(f"{last}.")}
    needed = {name: tensor for name, tensor in state.items() if name not in kept}
    missing = [name for name in own if name not in state and name not in kept]
    unexpected = [name for name in needed if name not in own]
    if missing or unexpected:
        raise InvalidArgumentError(
            f"{file} does not fit the network: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    _refuse_other_shapes(network, needed, file)
    network.load_state_dict(needed, strict=False)


def find_weights(start: str, data: Path | None) -> Path:
    """The file that a configuration's ``start`` names: ``zoo:NAME``, as it stands, or in the data folder.

    Raises:
        NotFoundError: it is in none of these places.
    """
    if start.startswith(ZOO_PREFIX):
        return zoo.find(start.removeprefix(ZOO_PREFIX)).file
    folders = [Path(), *([data] if data else []), Path(os.environ.get("PENSTOCK_DATA", "."))]
    for folder in folders:
        if (folder / start).is_file():
            return folder / start
    looked = ", ".join(str(folder / start) for folder in dict.fromkeys(folders))
    raise NotFoundError(
        f"no weights to start from: looked at {looked}; set PENSTOCK_DATA or give a full path"
    )


def _last_layer(network: nn.Module) -> str:
    """Name of the layer that gives the classes: in every classifier the last one with weights."""
    modules: dict[str, nn.Module] = dict(network.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not layers:
        raise InvalidArgumentError("the network has no linear layer or convolution to be its classifier")
    return layers[-1]


def _refuse_other_shapes(network: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    own = network.state_dict()
    unlike = [name for name, tensor in state.items() if tensor.shape != own[name].shape]
    if not unlike:
        return
    name, last = unlike[0], _last_layer(network)
    # Where nothing else differs, the file is of the same network for other classes.
    other_classes = all(each.startswith(f"{last}.") for each in unlike)
    remedy = ": fresh_classifier loads all but its last layer" if other_classes else ""
    raise InvalidArgumentError(
        f"{file} does not fit the network: {name} is {[*state[name].shape]} there and {[*own[name].shape]} here{remedy}"
    )


def _read(file: Path) -> dict[str, Tensor]:
    readers = {".onnx": _read_onnx, ".safetensors": _read_safetensors}
    return readers.get(file.suffix, _read_torch)(file)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        _, tensors = read_content(file)
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgumentError(f"{file} holds no weights of this network: {error}") from error
    return with_prefix(DENSE, tensors) or tensors


def _read_torch(file: Path) -> dict[str, Tensor]:
    try:
        loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        state: dict[str, Tensor] = loaded.get("state_dict", loaded)
        named = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    except Exception as error:  # torch.load raises many kinds for a file that is something else
        raise InvalidArgumentError(f"{file} holds no weights of this network: {error}") from error
    strangers = [name for name, tensor in named.items() if not isinstance(tensor, Tensor)]
    if strangers:
        raise InvalidArgumentError(f"{file} holds no weights of this network: {strangers[0]!r} is no tensor")
    return named


def _read_onnx(file: Path) -> dict[str, Tensor]:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UnsupportedError(
            f'reading weights from {file.name} needs onnx: pip install "penstock[export]"'
        ) from error
    try:
        initializers = onnx.load(file).graph.initializer
        # A copy, because the arrays may lie in read-only memory.
        arrays = {
            each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in initializers
        }
    except (DecodeError, ValueError, TypeError) as error:
        raise InvalidArgumentError(f"{file} holds no weights of this network: {error}") from error
    return from_caffe(arrays) if is_caffe(arrays) else arrays
