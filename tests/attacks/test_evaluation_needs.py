"""What a plan needs and is not there is told before anything is begun."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.attacks.evaluation import evaluate_detection
from penstock.attacks.evaluation_config import EvaluationConfig
from penstock.attacks.evaluation_needs import check_libraries, check_rates
from penstock.detect import Recipe
from penstock.errors import InvalidArgumentError, PenstockError
from penstock.nn.checkpoint import load_source


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("art", r"fgsm: the Adversarial Robustness Toolbox is needed .*penstock\[attacks\]"),
        ("PIL", r"jpeg, mnist: Pillow is needed .*penstock\[train\]"),
        ("scipy", r"intervals: scipy is needed .*penstock\[attacks\]"),
        ("sklearn", r"fourier, supervised: scikit-learn is needed .*penstock\[attacks\]"),
    ],
)
def test_a_missing_library_is_told_with_what_asks_for_it(
    library: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvaluationConfig(kinds=("pgd", "fgsm", "jpeg", "mnist"), baselines=("energy", "fourier"))
    check_libraries(config)
    monkeypatch.setitem(sys.modules, library, None)  # as where it is not installed
    with pytest.raises(PenstockError, match=said):
        check_libraries(config)
    if library in ("art", "PIL"):
        check_libraries(replace(config, kinds=("pgd", "blur")))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"kinds": ("mnist",)}, "control mnist: .*; or leave mnist out of kinds"),
        ({"kinds": ("caltech25",)}, "control caltech25: .*; or leave caltech25 out of kinds"),
        (
            {"kinds": ("blur",), "fpr": 0.001},
            "fpr is 0.001, for which 999 calibration images are needed; thresholds are set on 499: 0.002 is the lowest",
        ),
        (
            {"kinds": ("blur",), "detector": "sub-architecture"},
            "sub_architectures is empty, and detector sub-architecture compares with these: name the run",
        ),
        (
            {"kinds": ("blur",), "detector": "sub-architecture", "sub_architectures": "nowhere"},
            "no sub-architectures at nowhere",
        ),
    ],
)
def test_a_plan_that_cannot_be_done_leaves_the_folder_free(
    tiny_run: Path, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    with pytest.raises(PenstockError, match=said):
        evaluate_detection(
            str(tiny_run), EvaluationConfig(images=3, **config), tmp_path / "run", folder=nothing
        )
    assert not (tmp_path / "run").exists()


def test_a_source_without_detector_or_data_set_is_told_apart(tiny_run: Path, tmp_path: Path) -> None:
    checkpoint, _ = load_source(str(tiny_run))
    replace(checkpoint, detector={}).save(tmp_path / "blind.safetensors")
    replace(checkpoint, config={}).save(tmp_path / "lost.safetensors")
    config = EvaluationConfig(kinds=("blur",))
    with pytest.raises(InvalidArgumentError, match=r"blind\.safetensors has no detector"):
        evaluate_detection(str(tmp_path / "blind.safetensors"), config, tmp_path / "run")
    with pytest.raises(InvalidArgumentError, match=r"lost\.safetensors does not say which data set"):
        evaluate_detection(str(tmp_path / "lost.safetensors"), config, tmp_path / "run")


def test_rates_are_held_against_the_images_that_thresholds_are_set_on() -> None:
    plain, ranking = Recipe.parse("path-likelihood"), Recipe.parse("doubt")
    check_rates(EvaluationConfig(), plain, plain.ranking(99))
    with pytest.raises(
        InvalidArgumentError, match=r"98 calibration images; figures at a rate of 0.01 need 99"
    ):
        check_rates(EvaluationConfig(), plain, plain.ranking(98))
    check_rates(EvaluationConfig(fpr=0.01), ranking, ranking.ranking(197))
    with pytest.raises(InvalidArgumentError, match="set on 98, because doubt or a bundle's detector ranks"):
        check_rates(EvaluationConfig(fpr=0.01), ranking, ranking.ranking(196))
    assert not np.any(plain.ranking(99))
