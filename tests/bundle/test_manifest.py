"""What a manifest says."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.bundle import Bundle, Calibration, Manifest
from penstock.errors import InvalidArgumentError
from penstock.manifest import Choice, TunedStage, Tuning
from tests.bundle.made import manifest

LOST = Tuning(
    provider="cpu",
    batch=1,
    threads=1,
    tried_ms={"masked": 3.0},
    dense_ms=2.0,
    chosen_ms=2.5,
    layers={"conv": "masked"},
    declined=(),
)


@given(
    names=st.lists(st.text(max_size=10), max_size=4),
    parity=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 999), st.integers(1, 999)),
    calibrated=st.booleans(),
)
def test_manifest_round_trip(
    names: list[str], parity: dict[str, float], shape: tuple[int, int, int], calibrated: bool
) -> None:
    made = manifest("0" * 64, class_names=tuple(names), parity=parity, input_shape=shape)
    if not calibrated:
        made = dataclasses.replace(made, calibration=None)
    assert Manifest.from_json(made.to_json()) == made


def test_what_tuning_measured_of_each_stage_is_kept_and_may_be_missing(written: Bundle) -> None:
    stage = TunedStage(
        layers=("conv1", "conv2"), tried_ms={"masked": 3.0, "gathered": 2.5}, chosen="gathered"
    )
    tuning = dataclasses.replace(LOST, stages=(stage,))
    tuned = dataclasses.replace(written.manifest, tuning=tuning)
    assert Manifest.from_json(tuned.to_json()) == tuned
    old = json.loads(tuned.to_json()) | {"schema": 9}
    del old["tuning"]["stages"]
    assert Manifest.from_json(json.dumps(old)).tuning == LOST
    assert str(stage) == "at conv1 and 1 more: masked 3.000 ms, gathered 2.500 ms, taken gathered"
    alone = dataclasses.replace(stage, layers=("conv1",), tried_ms={})
    assert str(alone) == "at conv1: taken gathered"


def test_a_routed_graph_without_a_choice_is_static() -> None:
    several = Choice(place="conv1", images=(3, 0, 4))
    alone = Choice(place="conv3", images=(7,))
    assert [manifest("0" * 64, choices=choices).form for choices in ((), (alone,), (several, alone))] == [
        "masked",
        "masked, static",
        "masked",
    ]
    assert [str(each) for each in (several, alone)] == [
        "at conv1: chosen for 3, 0, 4 images",
        "at conv3: static",
    ]


def test_each_image_is_compared_with_the_threshold_of_its_class() -> None:
    common = Calibration(detector="path", target_fpr=0.05, threshold=1.5, images=499, source="graph")
    assert common.thresholds_of(np.array([0, 1, 1])).tolist() == [1.5, 1.5, 1.5]
    own = dataclasses.replace(common, class_thresholds=(1.0, 2.0), class_images=(200, 299))
    assert own.thresholds_of(np.array([0, 1, 1])).tolist() == [1.0, 2.0, 2.0]
    with pytest.raises(InvalidArgumentError, match="1 class_thresholds for 2 classes"):
        manifest("", calibration=dataclasses.replace(own, class_thresholds=(1.0,)))


def test_the_record_of_a_dense_network_that_won_is_its_own() -> None:
    won = LOST.of_dense()
    assert (won.chosen_ms, won.ratio, won.layers) == (2.0, 1.0, {})
    assert won.tried_ms == {"masked": 3.0, "tuned": 2.5}
