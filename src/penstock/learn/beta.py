"""Which weight of compression: the choice of beta on validation images.

The release gives one beta for each network and does not say how it was found. Here every candidate is searched for in
full, and its sub-architectures do their classes' yes-or-no tasks on validation images, as the whole network does. With
``b`` the balanced accuracy averaged over classes, a candidate *keeps*

    kept = (b - 1/2) / (b_dense - 1/2)

of what the whole network knows. Of the candidates that keep at least the share asked for, the one with the fewest
MACs is taken; where none does, the one that keeps most, and the run says so. Recall alone would not do: a
sub-architecture that says yes to everything has all of it, and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.errors import InvalidArgumentError
from penstock.learn.class_tasks import TaskFigures


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One beta and what its sub-architectures do on validation images, averaged over classes.

    Attributes:
        beta: weight of compression.
        balanced: balanced accuracy of the classes' tasks.
        kept: share of the whole network's balanced accuracy above chance.
        recall: share of a class's images that its sub-architecture knows.
        density: share of open filters.
        mac_share: share of the dense network's MACs.
    """

    beta: float
    balanced: float
    kept: float
    recall: float
    density: float
    mac_share: float


def candidate(beta: float, figures: TaskFigures) -> Candidate:
    """Sum up what was measured with one beta."""
    balanced, dense = float(np.mean(figures.balanced)), float(np.mean(figures.dense_balanced))
    return Candidate(
        beta=beta,
        balanced=balanced,
        kept=(balanced - 0.5) / max(dense - 0.5, 1e-9),
        recall=float(np.mean(figures.recall)),
        density=float(np.mean(figures.density)),
        mac_share=float(np.mean(figures.mac_share)),
    )


def choose(candidates: Sequence[Candidate], keep: float) -> Candidate:
    """The cheapest of the candidates that keep enough, else the one that keeps most.

    Args:
        candidates: at least one.
        keep: the least share to keep, see above.

    Raises:
        InvalidArgumentError: there is none.
    """
    if not candidates:
        raise InvalidArgumentError("no beta to choose from: name at least one")
    good = [each for each in candidates if each.kept >= keep]
    return min(good, key=lambda each: each.mac_share) if good else max(candidates, key=lambda each: each.kept)


def verdict(chosen: Candidate, keep: float) -> str:
    """One line that says what was chosen, and where it keeps too little, what can be done.

    Args:
        chosen: by `choose`.
        keep: the share that was asked for.
    """
    if chosen.kept >= keep:
        return f"beta {chosen.beta:g} is taken: it keeps {chosen.kept:.1%} of what the network knows"
    return (
        f"below keep: {keep:.1%} of what the network knows was to be kept, and beta {chosen.beta:g}, which keeps most, "
        f"keeps {chosen.kept:.1%}; add smaller values to beta, or ask for less with keep"
    )
