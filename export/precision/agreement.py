"""How well a graph of reduced precision agrees with the float32 graph that it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.bundle import LOGITS, PATH
from penstock.errors import VerificationError
from penstock.export.runtime import Outputs
from penstock.manifest import FP16, INT8, Agreement


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is demanded of an agreement.

    Attributes:
        top1_agreement: the least share of real images with the same most likely class.
        logit_error: the most, whatever the images.
        same_bits: the least share of equal path bits, or a warning is given: answers are checked by themselves, but a
            detector was fitted to other paths. Networks of the zoo keep 99.1 to 99.7 % at int8.
    """

    top1_agreement: float
    logit_error: float = np.inf
    same_bits: float = 0.985


LIMITS = {INT8: Limits(top1_agreement=0.985), FP16: Limits(top1_agreement=0.995, logit_error=0.01)}


def compare(expected: Outputs, got: Outputs, *, real: bool) -> Agreement:
    """Compare what two graphs answer about the same images.

    Args:
        expected: of the float32 graph.
        got: of the graph of reduced precision.
        real: whether images and weights are real ones.

    Raises:
        VerificationError: a logit is no finite number.
    """
    want, have = expected[LOGITS].astype(np.float64), got[LOGITS].astype(np.float64)
    if not np.isfinite(have).all():
        raise VerificationError(
            f"{int((~np.isfinite(have)).sum())} logits of {have.size} are no finite numbers: keep --precision fp32"
        )
    size = np.maximum(np.linalg.norm(want, axis=1), np.finfo(np.float32).tiny)
    same = expected[PATH] == got[PATH]
    return Agreement(
        images=len(want),
        logit_error=float(np.median(np.linalg.norm(want - have, axis=1) / size)),
        top1_agreement=float((want.argmax(axis=1) == have.argmax(axis=1)).mean()) if real else None,
        same_path=float(same.all(axis=1).mean()),
        same_bits=float(same.mean()),
    )


def verify_agreement(found: Agreement, precision: str) -> None:
    """Refuse a graph that too often answers with another class, or is farther off than its precision explains.

    Args:
        found: what was measured; without a top-1 agreement that is not looked at.
        precision: a key of `LIMITS`.

    Raises:
        VerificationError: a figure is beyond its limit.
    """
    limits = LIMITS[precision]
    if found.top1_agreement is not None and found.top1_agreement < limits.top1_agreement:
        raise VerificationError(
            f"at {precision}, the most likely class is that of the float32 graph for {found.top1_agreement:.2%} of "
            f"{found.images} images; at least {limits.top1_agreement:.1%} are wanted: keep --precision fp32"
        )
    if not found.logit_error <= limits.logit_error:
        raise VerificationError(
            f"at {precision}, logits differ from the float32 graph's by {found.logit_error:.2%} in the median; at "
            f"most {limits.logit_error:.1%} is wanted: keep --precision fp32"
        )


def warning_of(found: Agreement, precision: str) -> str | None:
    """What is no reason to refuse a graph, but should be known: paths that are not those of the float32 graph.

    Args:
        found: what was measured.
        precision: a key of `LIMITS`.
    """
    least = LIMITS[precision].same_bits
    if found.same_bits >= least:
        return None
    return (
        f"warning: at {precision}, only {found.same_bits:.1%} of the path bits are those of the float32 graph, and "
        f"{found.same_path:.1%} of the images take the same path; at least {least:.1%} of the bits are usual: the "
        "detector was fitted to other paths: see with `penstock detect evaluate --bundle` what it still finds, or keep "
        "--precision fp32"
    )
