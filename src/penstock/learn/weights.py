"""Weights of dense networks that a decoupling starts from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError, NotFoundError


def load_weights(network: nn.Module, file: Path) -> None:
    """Load a dense network's published weights: a state dict, or a dict that holds one as ``state_dict``.

    Names may begin with ``module.``, as DataParallel saves them. The normalisation constants may be missing: the
    backbone has its own.

    Raises:
        InvalidArgumentError: the file is not such a thing, or does not fit the network.
    """
    try:
        loaded: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        state: dict[str, Tensor] = loaded.get("state_dict", loaded)
        named = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        missing, unexpected = network.load_state_dict(named, strict=False)
    except Exception as error:  # torch.load raises many kinds for a file that is something else
        raise InvalidArgumentError(f"{file} holds no weights of this network: {error}") from error
    lost = [name for name in missing if not name.startswith("normalize.")]
    if lost or unexpected:
        raise InvalidArgumentError(
            f"{file} does not fit the network: missing {lost[:3]}, unexpected {unexpected[:3]}"
        )


def find_weights(start: str, data: Path | None) -> Path:
    """The file that a configuration's ``start`` names: as it stands, or in the data folder.

    Raises:
        NotFoundError: it is in none of these places.
    """
    folders = [Path(), *([data] if data else []), Path(os.environ.get("PENSTOCK_DATA", "."))]
    for folder in folders:
        if (folder / start).is_file():
            return folder / start
    looked = ", ".join(str(folder / start) for folder in dict.fromkeys(folders))
    raise NotFoundError(
        f"no weights to start from: looked at {looked}; set PENSTOCK_DATA or give a full path"
    )
