"""What a run folder without a checkpoint is: a run that has not ended, or one whose result is something else.

Every run leaves its configuration in the folder when it begins, and its result when it ends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from penstock.errors import NotFoundError, UnsupportedError
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"

# A key that only this command's configurations have.
_COMMANDS = {
    "decouple": "decouple",
    "train": "train",
    "form": "disentangle",
    "first": "cascade",
    "count": "consolidate",
    "observers": "observe",
}
# Results that are no checkpoint, and what they are good for.
_OTHERS = {
    "train": (
        WEIGHTS_FILE,
        "a dense network, without paths: its figures are in figures.json, and `penstock decouple` with "
        "`start = {file}` gives it gates",
    ),
    "disentangle": (
        SUB_ARCHITECTURES_FILE,
        "sub-architectures of classes, not a network with paths: `penstock report` shows them, and `penstock export "
        "--class NAME` makes a network of one",
    ),
}


def refuse_run_without_checkpoint(folder: Path) -> None:
    """Complain where a folder without a checkpoint is a run's; say nothing where it is none.

    Raises:
        NotFoundError: the run has not ended.
        UnsupportedError: it has, but its result is no checkpoint.
    """
    command = _command(folder)
    if command is None:
        return
    name, meaning = _OTHERS.get(command, ("", ""))
    file = folder / name
    if name and file.is_file():
        raise UnsupportedError(
            f"{folder} is a run of `penstock {command}`; it holds {meaning.format(file=json.dumps(str(file)))}"
        )
    raise NotFoundError(
        f"{folder} is a run of `penstock {command}` that has not ended: call it again with the same configuration and "
        f"--out {folder}, and it goes on where it stopped"
    )


def _command(folder: Path) -> str | None:
    """Which command's run a folder is, by its configuration; ``None``: no run that we know."""
    try:
        config: Any = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = [command for key, command in _COMMANDS.items() if isinstance(config, dict) and key in config]
    return found[0] if found else None
