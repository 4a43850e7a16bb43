"""Pieces of work: in which order, what they need of each other, and what an adaptive attack goes on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from penstock.attacks import baselines, evaluation_plan
from penstock.attacks.adaptive import Adaptive
from penstock.attacks.evaluation import evaluate_detection
from penstock.attacks.evaluation_bench import Bench
from penstock.attacks.evaluation_config import OWN, EvaluationConfig
from penstock.attacks.evaluation_figures import Arrays
from penstock.attacks.evaluation_plan import pieces
from penstock.attacks.evaluation_work import Subject, change, do
from penstock.data import ImageSet, load
from penstock.nn.checkpoint import load_source

CONFIG = EvaluationConfig(
    images=8,
    kinds=("signs", "joint"),
    eps=(40.0, 20.0),
    baselines=("energy",),
    adaptive_steps=3,
    adaptive_restarts=1,
)


def never() -> NoReturn:
    raise AssertionError("not to be asked")


def of(run: Path) -> tuple[Subject, Bench, dict[str, ImageSet]]:
    """What a plan is made of; the baselines are not there."""
    checkpoint, _ = load_source(str(run))
    splits = load("digits")
    bench = Bench(checkpoint, checkpoint.score, never)
    parts = {"calibration": splits.calibration, "test": splits.test.take(np.arange(20))}
    clean = {name: bench.judge_alone(part.floats()) for name, part in parts.items()}
    victims = parts["test"].take(np.flatnonzero(clean["test"]["predicted"] == parts["test"].labels)[:8])
    subject = Subject(
        checkpoint=checkpoint,
        detector=checkpoint.score,
        calibration=clean["calibration"][OWN],
        victims=victims,
        before=clean["test"],
        guides=splits.train.take(np.arange(50)),
    )
    return subject, bench, parts


def test_only_judging_waits_for_baselines(tiny_run: Path, tmp_path: Path) -> None:
    subject, bench, parts = of(tiny_run)
    work = pieces(subject, bench, CONFIG, parts, tmp_path)
    assert [file.stem for file in work] == [
        *("compared-calibration", "planted", "attack-joint-20", "attack-joint-40"),
        *("attack-signs-40", "attack-signs-20", "compared-test"),
    ]
    assert work[tmp_path / "planted.npz"]().keys() == {"joint-20", "joint-40"}
    assert OWN in work[tmp_path / "attack-joint-20.npz"]()
    for waits in ("compared-calibration", "attack-signs-40"):
        with pytest.raises(AssertionError, match="not to be asked"):
            work[tmp_path / f"{waits}.npz"]()


def test_a_larger_bound_goes_on_from_the_smaller_one(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, bench, parts = of(tiny_run)
    alone = Bench(bench.checkpoint, bench.detector, dict)
    work = pieces(subject, alone, CONFIG, parts, tmp_path)
    larger = work[tmp_path / "attack-joint-40.npz"]()
    with np.load(tmp_path / "attack-joint-20.npz") as content:  # made on the way
        smaller = dict(content)
    for found, eps in ((smaller, 20), (larger, 40)):
        moved = np.abs(found["changed"] - subject.victims.floats()).max()
        assert 0 < moved <= (eps + 0.01) / 255

    threshold = float(np.median(smaller[OWN]))
    monkeypatch.setattr("penstock.attacks.evaluation_work.conformal_threshold", lambda *_: threshold)
    known: Arrays = smaller | {"predicted": (subject.victims.labels + 1) % 10}
    known["predicted"][0] = subject.victims.labels[0]
    won = (smaller[OWN] <= threshold) & (np.arange(8) > 0)
    assert 0 < won.sum() < 7
    attacked: list[int] = []
    run = Adaptive.__call__

    def counted(self: Adaptive, *arguments: object) -> object:
        attacked.append(len(arguments[4]))  # type: ignore[arg-type]
        return run(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Adaptive, "__call__", counted)
    changed = change(subject, "joint", 40 / 255, CONFIG, known)
    np.testing.assert_array_equal(changed[won], smaller["changed"][won])
    assert attacked == [8 - won.sum()]
    all_won = known | {"predicted": (subject.victims.labels + 1) % 10, OWN: np.full(8, -np.inf)}
    np.testing.assert_array_equal(change(subject, "joint", 40 / 255, CONFIG, all_won), smaller["changed"])
    assert len(attacked) == 1


def test_two_who_share_a_folder_make_each_piece_once(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, float]] = []
    said: list[str] = []
    results: list[dict[str, Any]] = []
    config = replace(CONFIG, kinds=("jpeg", "blur", "joint"), supervised=())

    def counted(subject: Subject, bench: Bench, kind: str, eps: float, *more: Any) -> Arrays:
        done.append((kind, eps))
        return do(subject, bench, kind, eps, *more)

    def overtaken(plan: list[Path]) -> list[Path]:
        """Another one begins when this one is about to make its first piece, and is faster."""
        results.append(evaluate_detection(str(tiny_run), config, tmp_path, say=said.append))
        return plan

    monkeypatch.setattr(evaluation_plan, "do", counted)
    results.append(evaluate_detection(str(tiny_run), config, tmp_path, say=said.append, track=overtaken))
    assert results[0] == results[1]
    assert sorted(done) == sorted(config.plan)
    assert said.count("counting") == 1


def test_the_dearest_baseline_judges_clean_images_spread_over_all(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, _ = load_source(str(tiny_run))
    scores: dict[str, baselines.Score] = dict.fromkeys(
        ("energy", "cdrp"), lambda seen: seen.logits[:, 0].astype(np.float64)
    )
    monkeypatch.setattr(baselines, "CDRP_CLEAN", 4)
    compared = Bench(checkpoint, checkpoint.score, lambda: scores).compare(
        load("digits").test.take(np.arange(10)).images
    )
    assert len(compared["energy"]) == 10
    np.testing.assert_array_equal(compared["cdrp"], compared["energy"][[0, 3, 6, 9]])
