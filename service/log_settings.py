"""Which log records are written, changed at run time."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from penstock.errors import InvalidArgumentError, UnsupportedError

_SWITCHES = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
_FIXED = {"log_file": "", "log_format": "default"}

Value = bool | int | str


class LogSettings:
    """Switches over the records of this process; Triton's names and meanings.

    ``log_info``, ``log_warning`` and ``log_error`` switch one level each; ``log_verbose_level`` above 0 adds
    debug records. File and format are settled at the start.
    """

    def __init__(self) -> None:
        level = logging.getLogger().getEffectiveLevel()
        self._on = {name: level <= severity for name, severity in _SWITCHES.items()}
        self._verbose = int(level <= logging.DEBUG)

    def values(self) -> dict[str, Value]:
        """All settings as they stand."""
        return {**_FIXED, **self._on, "log_verbose_level": self._verbose}

    def update(self, wanted: Mapping[str, Value]) -> None:
        """Change some settings, or none if one of them cannot be.

        Raises:
            InvalidArgumentError: an unknown setting, or a value of another type.
            UnsupportedError: a setting that is settled at the start.
        """
        on, verbose = dict(self._on), self._verbose
        for name, value in wanted.items():
            if name in _FIXED:
                if value != _FIXED[name]:
                    raise UnsupportedError(f"{name} cannot be changed while the server runs")
            elif name in on and isinstance(value, bool):
                on[name] = value
            elif name == "log_verbose_level" and isinstance(value, int) and not isinstance(value, bool):
                verbose = value
            else:
                raise InvalidArgumentError(
                    f"log setting {name[:100]!r} with value {value!r} is not known; "
                    f"there are {', '.join(self.values())}, with switches as bool and the level as uint32"
                )
        if (on, verbose) == (self._on, self._verbose):
            return  # a question, or nothing new: the logging of the program around this server stays as it is
        self._on, self._verbose = on, verbose
        self._apply()

    def admits(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be written."""
        if record.levelno < logging.INFO:
            return self._verbose > 0
        name = max((s for s in _SWITCHES if _SWITCHES[s] <= record.levelno), key=_SWITCHES.__getitem__)
        return self._on[name]

    def _apply(self) -> None:
        root = logging.getLogger()
        root.setLevel(logging.DEBUG if self._verbose else logging.INFO)
        for handler in root.handlers:
            if self.admits not in handler.filters:
                handler.addFilter(self.admits)
