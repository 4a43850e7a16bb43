"""Which runs are so brief that handing them to a thread would cost more than they do.

The event loop that answers all requests must not wait for a graph, so runs happen in threads. Handing one over and
being told of its end costs some 0.1 ms, whatever the graph. A run that takes little more is better done by the loop
itself, which spends as much on reading the request. What a run will take is guessed from those before it.
"""

from __future__ import annotations

BRIEF_NS = 200_000
"""Nanoseconds of the longest run that counts as brief."""

_UNKNOWN_NS = (
    10 * BRIEF_NS
)  # what is expected of a graph that has not run yet: trust takes some 40 brief runs
_WEIGHT = (
    1 / 16
)  # of the last run in the mean: one hiccup of a millisecond does not cost the trust, a long run does


class Brevity:
    """What is known of one graph's runs; may be told from many threads at once, where one may miss another's word.

    Runs are told apart by the size of their inputs, to the next power of two.
    """

    def __init__(self) -> None:
        self._mean_ns = [float(_UNKNOWN_NS)] * 65  # by the bits of the inputs' size, moving

    def ran(self, size: int, ns: int) -> None:
        """Take note of a run.

        Args:
            size: bytes of its inputs.
            ns: nanoseconds that it took.
        """
        bits = size.bit_length()
        self._mean_ns[bits] += _WEIGHT * (ns - self._mean_ns[bits])

    def expected(self, size: int) -> bool:
        """Whether the run of inputs of so many bytes will be brief."""
        return self._mean_ns[size.bit_length()] <= BRIEF_NS
