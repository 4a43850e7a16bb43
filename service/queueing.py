"""What a model's configuration says about waiting: how many, how long, in which order, and together with whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.bundle import CONFIG_FILE
from penstock.errors import BundleError

QUEUE_FULL, TOO_LATE = "Exceeds maximum queue size", "Request timeout expired"
"""How refusals for overload begin: Triton's words, by which clients know them."""

_MICRO = 1e-6


@dataclass(frozen=True, kw_only=True)
class QueuePolicy:
    """Of one priority level.

    Attributes:
        max_size: requests that may wait; the next one is refused at once.
        timeout: seconds that a request may wait; 0 for any time.
        delays_late: whether a request that has waited too long goes behind the others rather than being refused.
        allows_override: whether a request may shorten its timeout.
    """

    max_size: int
    timeout: float = 0.0
    delays_late: bool = False
    allows_override: bool = False

    def timeout_of(self, asked: float) -> float:
        """Seconds that a request may wait that asks for a timeout itself; 0 for any time."""
        if self.allows_override and asked > 0:
            return min(asked, self.timeout) if self.timeout else asked
        return self.timeout


@dataclass(frozen=True, kw_only=True)
class Batching:
    """When requests are run together.

    Attributes:
        max_rows: largest batch.
        preferred: sizes that are run as soon as they are reached, ascending.
        max_delay: seconds that a smaller batch may wait for others.
    """

    max_rows: int
    preferred: tuple[int, ...] = ()
    max_delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """All that a scheduler needs to know.

    Attributes:
        default: policy of the levels that have none of their own.
        levels: number of priority levels; 1 is served first. 0 if requests have no priority.
        default_level: of a request that asks for none, or for one that there is not.
        own: policies by level.
        batching: ``None`` if requests are not run together.
    """

    default: QueuePolicy
    levels: int = 0
    default_level: int = 0
    own: Mapping[int, QueuePolicy] = field(default_factory=dict)
    batching: Batching | None = None

    def level_of(self, priority: int) -> int:
        """The level of a request."""
        return priority if 1 <= priority <= self.levels else self.default_level

    def policy_of(self, level: int) -> QueuePolicy:
        """The policy of a level."""
        return self.own.get(level, self.default)


def waiting_of(config: Any, max_queue: int) -> Waiting:
    """What a completed ``ModelConfig`` says.

    Args:
        config: ``dynamic_batching`` in it counts where the model takes batches.
        max_queue: requests that may wait where the configuration sets no limit.

    Raises:
        BundleError: it names a priority level that there is not, or says not which one is the default.
    """
    default = QueuePolicy(max_size=max_queue)
    if not config.HasField("dynamic_batching") or config.max_batch_size < 1:
        return Waiting(default=default)
    asked = config.dynamic_batching
    _check_levels(asked)
    return Waiting(
        default=_policy(asked.default_queue_policy, max_queue),
        levels=asked.priority_levels,
        default_level=asked.default_priority_level,
        own={level: _policy(policy, max_queue) for level, policy in asked.priority_queue_policy.items()},
        batching=Batching(
            max_rows=config.max_batch_size,
            preferred=tuple(sorted(size for size in asked.preferred_batch_size if size > 0)),
            max_delay=asked.max_queue_delay_microseconds * _MICRO,
        ),
    )


def _check_levels(asked: Any) -> None:
    """Refuse what Triton refuses; a default of 0 would go before level 1."""
    levels = asked.priority_levels
    named = [("default_priority_level", asked.default_priority_level)]
    named += [("priority_queue_policy", level) for level in asked.priority_queue_policy]
    for name, level in named:
        if levels and not 1 <= level <= levels:
            raise BundleError(
                f"{CONFIG_FILE} has {name} {level}; expected 1 to {levels}, which is its priority_levels"
            )


def _policy(asked: Any, max_queue: int) -> QueuePolicy:
    return QueuePolicy(
        max_size=asked.max_queue_size or max_queue,
        timeout=asked.default_timeout_microseconds * _MICRO,
        delays_late=asked.timeout_action == asked.DELAY,
        allows_override=asked.allow_timeout_override,
    )
