"""The command that made a run, as far as its configuration tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def command_of(config: Mapping[str, Any], name: str) -> str:
    """The command line; ``FILE`` stands for a file with the settings that it does not name.

    Args:
        config: of the run, as its checkpoint holds it.
        name: of its folder.
    """
    return f"penstock {_what(config)} --out {name}"


def _what(config: Mapping[str, Any]) -> str:
    if "first" in config:
        second = f" {config['second']['name']}" if config["second"] else ""
        options = " ".join(f"--{key} {config[key]}" for key in ("budget", "blend", "fpr"))
        return f"cascade {config['first']['name']}{second} {options}"
    if "count" in config:
        budget = f" --budget {config['budget']}" if config.get("budget") is not None else ""
        return f"consolidate {config['source']['name']} --prototypes {config['count']}{budget} --config FILE"
    if "observers" in config:
        dense = " --dense" if config["dense"] else ""
        return f"observe {config['source']['name']}{dense} --config FILE"
    return "decouple --config FILE"
