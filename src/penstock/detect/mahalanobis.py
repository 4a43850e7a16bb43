"""How far an input's gate logits are from those of its class.

The Mahalanobis distance under one covariance tied over all classes (Lee et al., NeurIPS 2018, section 2.1,
https://arxiv.org/abs/1807.03888), here of gate logits y given the predicted class c. They are
centred and scaled,

    x = (y - mean[c]) / scale,      scale[j]^2 = mean_n (y_n - mean[c_n])_j^2

and the covariance of x is shrunk towards a multiple of the identity (Ledoit and Wolf, *A well-conditioned
estimator for large-dimensional covariance matrices*, 2004): ``(1 - d) S + d mu I``. It has S's eigenvectors,
so the r largest, columns of U, are kept with their eigenvalues l, and the rest is given its mean eigenvalue
l_rest:

    p = x U,   e = x - p U^T,   distance = sqrt(1 + sum_r p_r^2 / l_r + |e|^2 / l_rest)

The 1 changes no order. Without it the root would blow up rounding errors where the rest is next to nothing, as for
networks with prototypes, whose routers are as good as sure of most images.

That is two thin products instead of one with ``P x P``, which graphs take where P is at most 2 r. ``|e|^2`` equals
``|x|^2 - |p|^2``, but that difference of two large numbers would cost single precision three digits where U explains
most of x; e itself is small and exact enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats, class_totals
from penstock.errors import UnsupportedError

# A filter whose logit hardly moves, or a direction without variance, would turn rounding errors into
# distance.
SMALLEST_SCALE = 0.01  # as a share of the root mean square of all scales, and of the filter's own logit
NO_SCALE = 1e-6  # typical scale of logits that are the same for all inputs: they are left unscaled
SMALLEST_EIGENVALUE = 0.01  # where 1 is the variance of an ordinary filter


@dataclass(frozen=True, eq=False)
class GateMahalanobis:
    """Class means and a tied low-rank covariance of gate logits.

    Attributes:
        mean: ``[C, P]`` float32.
        scale: ``[P]`` float32, above 0.
        directions: ``[P, r]`` float32, orthonormal columns: U.
        direction_weight: ``[r]`` float32: 1 / l.
        residual_weight: ``[1]`` float32: 1 / l_rest, or 0 where the directions span everything.
    """

    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float32]
    direction_weight: npt.NDArray[np.float32]
    residual_weight: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, features: PathFeatures, classes: int, rank: int) -> GateMahalanobis:
        """Estimate means and covariance; a class with fewer than two inputs gets the mean of all.

        Takes several times ``8 N P`` bytes of memory and one eigendecomposition of ``[P, P]``; with fewer inputs than
        filters, one singular value decomposition of ``[N, P]`` in its place.

        Args:
            features: two inputs or more.
            classes: number of classes C.
            rank: directions to keep, at most; never more than filters or inputs allow.

        Raises:
            UnsupportedError: scikit-learn is not installed.
        """
        totals, counts = class_totals(features.gate_logits, features.predicted, classes)
        mean = totals / counts
        x = features.gate_logits - mean[features.predicted]
        scale = np.sqrt((x**2).mean(axis=0))
        typical = np.sqrt((scale**2).mean())
        size = np.sqrt((features.gate_logits.astype(np.float64) ** 2).mean(axis=0))
        smallest = SMALLEST_SCALE * np.maximum(typical, size)
        scale = np.maximum(scale, smallest) if typical > NO_SCALE else np.ones(len(scale))
        x /= scale
        directions, variances, rest = _shrunk_covariance(x, min(rank, features.filters, len(features) - 1))
        return cls(
            mean.astype(np.float32),
            scale.astype(np.float32),
            directions.astype(np.float32),
            (1 / np.maximum(variances, SMALLEST_EIGENVALUE)).astype(np.float32),
            np.array([0 if rest is None else 1 / max(rest, SMALLEST_EIGENVALUE)], dtype=np.float32),
        )

    def score(self, features: PathFeatures) -> Floats:
        """``[N]``, 1 or more, larger is stranger; computed in double precision."""
        directions = self.directions.astype(np.float64)
        x = (features.gate_logits.astype(np.float64) - self.mean[features.predicted]) / self.scale
        along = x @ directions  # [N, r]
        beyond = x - along @ directions.T  # [N, P]
        squares = along**2 @ self.direction_weight + (beyond**2).sum(axis=1) * self.residual_weight
        distance: Floats = np.sqrt(1 + squares)
        return distance


def _shrunk_covariance(x: Floats, rank: int) -> tuple[Floats, Floats, float | None]:
    """Largest eigenvectors ``[P, r]`` and eigenvalues ``[r]`` after shrinking, and the others' mean."""
    try:
        from scipy.linalg import eigh, svd
        from sklearn.covariance import ledoit_wolf_shrinkage
    except ImportError as error:
        raise UnsupportedError('fitting needs scikit-learn: pip install "penstock[train]"') from error
    filters = x.shape[1]
    average = (x**2).sum() / len(x) / filters
    # Without any variance there is nothing to shrink, and the estimator would divide 0 by 0.
    shrinkage = float(ledoit_wolf_shrinkage(x, assume_centered=True)) if average > 0 else 0.0
    if len(x) < filters:
        _, sizes, rows = svd(x, full_matrices=False)
        variances, directions = sizes[:rank] ** 2 / len(x), rows[:rank].T
    else:
        variances, directions = eigh(x.T @ x / len(x), subset_by_index=[filters - rank, filters - 1])
    shrunk = (1 - shrinkage) * variances + shrinkage * average
    if rank == filters:
        return directions, shrunk, None
    # Shrinking keeps the trace, so what the largest leave of it belongs to the others.
    return directions, shrunk, float(filters * average - shrunk.sum()) / (filters - rank)
