"""Which runs are so brief that handing them to a thread would cost more than they do.

The event loop that answers all requests must not wait for a graph, so runs happen in threads. Handing one over and
being told of its end costs 0.1 ms and more, whatever the graph. A run that takes about as long is better done by the
loop itself, which spends as much on reading the request.

What a run will take is guessed from those before it with inputs of the same shapes: brief ones earn credit, longer
ones cost as much of it as they are times longer, and enough credit is trust. So a graph is trusted whose runs are brief
but for a few, which on a machine that others share too always take longer, and one is not that takes long for one image
in ten. Times are the processor's, so that neither a busy machine nor a busy interpreter makes a run look long. A graph
with loops may run for any time, as its values say, and is never trusted. Others may still take far longer for some
values, and betray the trust, which a client can do on purpose. Then the event loop waits for that one run, all credit
is gone, and from then on trust takes twice as much of it, whatever the shapes.
"""

from __future__ import annotations

import mmap
from collections.abc import Hashable
from pathlib import Path

BRIEF_NS = 200_000
"""Nanoseconds of the longest run that counts as brief: of one in a thread, which takes twice as long as in the loop."""

CREDIT = 32
"""Brief runs, beyond what longer ones cost, by which a graph earns trust at first."""

_BETRAYAL_NS = 10 * BRIEF_NS
# As nodes name their operators in a file: field 4, four bytes, and the name.
_LOOPS = (b'"\x04Loop', b'"\x04Scan')
_MOST_SHAPES = 256  # that are remembered: clients may send any


class Brevity:
    """What is known of one graph's runs; may be told from many threads at once, where one may miss another's word."""

    def __init__(self) -> None:
        self._credits: dict[Hashable, int] = {}
        self._needed = CREDIT

    def ran(self, shapes: Hashable, ns: int) -> None:
        """Take note of a run, whatever became of it.

        Args:
            shapes: of its inputs.
            ns: nanoseconds of the processor that it took.
        """
        if ns > _BETRAYAL_NS and self.expected(shapes):
            self._needed *= 2
            self._credits.clear()
            return
        if len(self._credits) >= _MOST_SHAPES and shapes not in self._credits:
            self._credits.clear()
        change = 1 if ns <= BRIEF_NS else -(ns // BRIEF_NS)
        # Twice what trust takes, and no more: else a graph that was brief for long could take long for long.
        self._credits[shapes] = min(max(self._credits.get(shapes, 0) + change, 0), 2 * self._needed)

    def expected(self, shapes: Hashable) -> bool:
        """Whether the run of inputs of these shapes will be brief."""
        return self._credits.get(shapes, 0) >= self._needed


def may_loop(file: Path) -> bool:
    """Whether a graph may have loops, or is in a form in which this cannot be told.

    Args:
        file: not empty.
    """
    if file.suffix != ".onnx":
        return True
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(loop) >= 0 for loop in _LOOPS)
