"""Settings from a TOML file: the names are those of `penstock.service.settings.Settings`, without tables."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from penstock.errors import ConfigurationError


def read_settings_file(file: Path, known: Collection[str]) -> dict[str, Any]:
    """Values by name; a relative path among them counts from where the server is started.

    Args:
        file: TOML.
        known: names that there are.

    Raises:
        ConfigurationError: the file cannot be read, is no TOML, or names a setting that there is not.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"settings {str(file)!r} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"settings {str(file)!r} are no TOML: {error}") from error
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}"
            raise ConfigurationError(f"{str(file)!r} has {name!r}, which is no setting{hint}")
    return values
