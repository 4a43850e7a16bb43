"""An exponential moving average of a training's weights, which is what gets judged and kept.

After every step each parameter and each batch-norm statistic ``a`` of the average follows the trained one ``x``:

    a <- a + (1 - decay) (x - a)

In this form a buffer that never changes, such as the constants of a normalisation or the MACs of a layer, is kept to
the bit. ``decay a + (1 - decay) x``, the form of PyTorch's and Lightning's own averages, moves it by its rounding in
every step; and Lightning's comes as a closure, which cannot be sent to other processes.
"""

from __future__ import annotations

from functools import partial

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


def moving_average(decay: float) -> WeightAveraging:
    """A callback that validates and saves the average, and resumes it exactly.

    Args:
        decay: from 0, the weights themselves, to below 1.
    """
    return WeightAveraging(avg_fn=partial(_follow, 1 - decay))


def _follow(share: float, average: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
    return average.lerp(current, share) if average.is_floating_point() else current
