"""A limit to lines of the log that anybody can cause.

Writing a line blocks whoever writes it, and in a server that is the loop which answers everybody: refusing must stay
cheap when there is most to refuse.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

LINES = 20  # a second


class LineLimit:
    """Lets so many lines through in a second, and counts the others; for any threads.

    Args:
        per_second: lines.
        clock: seconds that go on.
    """

    def __init__(self, per_second: int = LINES, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._lock = Lock()
        self._second = -1
        self._written = 0
        self._left_out = 0

    def admit(self) -> int | None:
        """How many lines were left out since the last one, if there is room for another; otherwise nothing."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._written = second, 0
            if self._written == self._per_second:
                self._left_out += 1
                return None
            self._written += 1
            before, self._left_out = self._left_out, 0
            return before
