"""What a configuration may not say, and in which order its pieces are worked on."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.attacks.adaptive import Adaptive
from penstock.attacks.evaluation_config import ADAPTIVE, EvaluationConfig
from penstock.errors import ConfigurationError, InvalidArgumentError
from penstock.nn.detecting import FIT_IMAGES


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"clean": 50}, "clean is 50; the 1000 images"),
        ({"clean": -5}, "clean is -5; it must be at least 0"),
        ({"images": 10, "counts": {"cw": 20}}, "counts of cw is 20; it must be between 1 and images, 10"),
        ({"counts": {"bim": 20}}, "no counts 'bim'"),
        ({"kinds": ("bim",)}, "no kinds 'bim'"),
        ({"kinds": ()}, "kinds is empty, so that nothing would be shown; name some of fgsm"),
        ({"eps": ()}, "eps is empty; name at least one bound"),
        ({"eps": (300.0,)}, r"eps is \[300.0\]; grey levels between 0 and 255"),
        ({"fit": 1}, "fit is 1; it must be at least 21"),
        ({"queries": 0}, "queries is 0; it must be at least 1"),
        ({"auto_steps": 0}, "auto_steps is 0; it must be at least 1"),
        ({"auto_restarts": 0}, "auto_restarts is 0; it must be at least 1"),
        ({"cw_steps": 0}, "cw_steps is 0; it must be at least 1"),
        ({"cw_searches": -1}, "cw_searches is -1; it must be at least 1"),
        ({"adaptive_steps": 0}, "adaptive_steps is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"fpr": 2.0}, "fpr is 2.0; a false-positive rate lies between 0 and 1"),
        ({"fpr": 0.0}, "fpr is 0.0; a false-positive rate lies between 0 and 1"),
        ({"detector": "guess"}, "detector is 'guess': no detector 'guess'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name_and_value(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        EvaluationConfig(**wrong)


def test_adaptive_attacks_take_steps() -> None:
    with pytest.raises(InvalidArgumentError, match="steps is 0; it must be at least 1"):
        Adaptive(steps=0)
    with pytest.raises(InvalidArgumentError, match="restarts is 0; it must be at least 1"):
        Adaptive(restarts=0)


def test_baselines_are_fitted_on_the_images_of_the_path_detector() -> None:
    assert EvaluationConfig().fit == FIT_IMAGES


def test_the_longest_pieces_come_first_and_adaptive_ones_bound_by_bound() -> None:
    config = EvaluationConfig(eps=(8.0, 2.0), kinds=("fgsm", "square", "joint", "jpeg", "matching"))
    assert config.order == (
        *(("joint", 2.0), ("matching", 2.0), ("joint", 8.0), ("matching", 8.0)),
        *(("square", 8.0), ("square", 2.0), ("fgsm", 8.0), ("fgsm", 2.0), ("jpeg", 0.0)),
    )
    assert [config.bound_before("joint", eps) for eps in config.eps] == [2.0, None]
    assert config.bound_before("square", 8.0) is None
    assert set(EvaluationConfig().order) == set(EvaluationConfig().plan)
    assert len(EvaluationConfig().order) == len(EvaluationConfig().plan)
    assert {kind for kind, _ in EvaluationConfig().order[:12]} == set(ADAPTIVE)
