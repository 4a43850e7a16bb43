"""Flags follow from the threshold of the graph that raises them."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.bundle import Bundle
from penstock.data import load
from penstock.detect import conformal_threshold
from penstock.export.runtime import open_graph
from tests.export.pipeline.kinds import FLAGGING, run


def test_without_flags_nothing_is_ever_flagged(bundles: dict[str, Bundle]) -> None:
    got = run(bundles["no-flags"], load("digits").test.images)
    assert not got["anomaly_score"].any()
    assert not got["adversarial"].any()
    assert bundles["no-flags"].manifest.calibration is None


@pytest.mark.parametrize("kind", FLAGGING)
def test_flags_are_scores_above_the_conformal_threshold_of_this_graph(
    kind: str, bundles: dict[str, Bundle]
) -> None:
    splits = load("digits")
    calibration = bundles[kind].manifest.calibration
    assert calibration is not None
    assert (calibration.source, calibration.images, calibration.target_fpr) == ("graph", 499, 0.05)
    on_calibration, on_test = (run(bundles[kind], part.images) for part in (splits.calibration, splits.test))
    # Another number of threads may add in another order: the last bit of a score is not to be relied on.
    threshold = conformal_threshold(on_calibration["anomaly_score"][:, 0], 0.05)
    assert calibration.threshold == pytest.approx(threshold, rel=1e-6)
    for got in (on_calibration, on_test):
        np.testing.assert_array_equal(got["adversarial"], got["anomaly_score"] > calibration.threshold)
    assert 0 < on_calibration["adversarial"].sum() <= 0.05 * 499 + 1  # the image at the threshold itself
    assert on_test["adversarial"].any()


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("kind", FLAGGING)
def test_an_image_that_is_no_image_is_flagged(kind: str, pixel: float, bundles: dict[str, Bundle]) -> None:
    graph = open_graph(bundles[kind].model_file, single=bundles[kind].manifest.single, threads=1)
    image = load("digits").test.take([0]).floats()
    image[0, 0, 4, 4] = pixel
    (flag,) = graph.session.run(["adversarial"], {"images": image})
    assert flag.all()
