from typing import Any

import numpy as np
import pytest

from penstock.detect import PathFeatures
from penstock.errors import InvalidArgumentError

BITS = np.array([[0, 1], [1, 1], [0, 0]], dtype=np.uint8)
LOGITS = np.where(BITS == 1, 1, -1).astype(np.float32)
PREDICTED = np.array([0, 1, 1], dtype=np.int64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": BITS.astype(np.float32)}, "bits are float32"),
        ({"bits": BITS[0]}, r"bits are uint8 of shape \(2,\)"),
        ({"bits": BITS[:, :0]}, r"shape \(3, 0\)"),
        ({"bits": BITS * 2}, "bits hold 2"),
        ({"gate_logits": LOGITS.astype(np.float64)}, "gate_logits are float64"),
        ({"gate_logits": LOGITS[:2]}, r"gate_logits are float32 of shape \(2, 2\)"),
        ({"gate_logits": LOGITS * np.float32(np.nan)}, "NaN or infinity"),
        ({"predicted": PREDICTED[:2]}, r"predicted are int64 of shape \(2,\)"),
        ({"predicted": PREDICTED - 1}, "predicted holds -1"),
    ],
    ids=str,
)
def test_features_that_cannot_be_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    good: dict[str, Any] = {"bits": BITS, "gate_logits": LOGITS, "predicted": PREDICTED}
    with pytest.raises(InvalidArgumentError, match=message):
        PathFeatures(**good | change)


def test_batches_hold_everything_in_order() -> None:
    batches = list(PathFeatures(BITS, LOGITS, PREDICTED).batches(2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert np.array_equal(np.concatenate([batch.bits for batch in batches]), BITS)
    assert np.array_equal(np.concatenate([batch.predicted for batch in batches]), PREDICTED)
