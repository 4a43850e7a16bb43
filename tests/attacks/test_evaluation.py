"""A whole small evaluation: what it reports, and that a killed one goes on where it stopped."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from penstock.attacks.baselines import Score
from penstock.attacks.evaluation import RESULTS, evaluate_detection
from penstock.attacks.evaluation_bench import Bench, kept, make_once, told_once, written
from penstock.attacks.evaluation_claim import CLAIM
from penstock.attacks.evaluation_config import OWN, EvaluationConfig
from penstock.attacks.evaluation_figures import Arrays
from penstock.attacks.evaluation_work import other_network
from penstock.attacks.metrics import flags_at
from penstock.attacks.served import Served
from penstock.bundle import newest_bundle
from penstock.cli.main import main
from penstock.data import load
from penstock.detect import CLASSIFIERS
from penstock.errors import AlreadyExistsError, InvalidArgumentError
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import open_bundle
from penstock.nn.checkpoint import load_source
from penstock.nn.detecting import features_of, fitted_score

CONFIG = EvaluationConfig(
    images=16,
    fit=60,
    kinds=("fgsm", "signs", "pixelate", "joint", "inflation"),
    eps=(40.0,),
    baselines=("energy", "feature-mahalanobis", "lid", "cdrp"),
    counts={"joint": 9, "inflation": 4},
    adaptive_steps=5,
    adaptive_restarts=1,
    supervised=(1, 5),
)


def arrays(file: Path) -> Arrays:
    with np.load(file) as content:
        return dict(content)


def test_an_evaluation_reports_and_goes_on(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr("penstock.attacks.supervised_figures.FEWEST", 1)
    found = evaluate_detection(str(tiny_run), CONFIG, run)
    by_kind = {attack["attack"]: attack for attack in found["attacks"]}
    assert list(by_kind) == list(CONFIG.kinds)
    fgsm = by_kind["fgsm"]
    assert 0 < fgsm["turned"] <= fgsm["attacked"] <= 16
    assert (by_kind["joint"]["attacked"], by_kind["inflation"]["attacked"]) == (9, 4)
    assert by_kind["joint"]["turned"] / 9 >= fgsm["turned"] / fgsm["attacked"]
    macs = by_kind["inflation"]["active_macs"]
    assert macs["mean_before"] <= macs["mean"] <= macs["largest"] <= macs["bound"]
    assert min(found["live_bits"].values()) > 0

    # What is told of scores is what they say, counted anew.
    changed, honest = arrays(run / "attack-fgsm-40.npz"), arrays(run / "clean-test.npz")
    compared, calibration = arrays(run / "compared-test.npz"), arrays(run / "clean-calibration.npz")
    assert not honest.keys() & compared.keys()  # no score is computed twice: some cost seconds an image
    turned = changed["predicted"] != changed["labels"]
    threshold = np.sort(calibration[OWN])[int(0.95 * (len(calibration[OWN]) + 1)) - 1]
    evades = (turned & (changed[OWN] <= threshold)).mean()
    assert fgsm["detectors"][OWN]["evasion"]["0.05"]["value"] == pytest.approx(evades)
    flagged = (changed[OWN] > threshold)[turned].mean()
    assert fgsm["detectors"][OWN]["turned"]["tpr"]["0.05"]["value"] == pytest.approx(flagged)
    assert fgsm["detectors"].keys() == {OWN, *CONFIG.baselines}
    for name, one in fgsm["detectors"].items():
        usual = (honest | compared)[name][:, None]
        strange = changed[name][None, turned]
        above = ((strange > usual) + (strange == usual) / 2).mean()
        assert one["turned"]["auroc"]["value"] == pytest.approx(above), name
    assert found["clean"][OWN]["0.05"]["measured"] == pytest.approx((honest[OWN] > threshold).mean())

    # Who has both attacks to choose from evades at least as often as with one of them.
    (both,) = found["any"]
    assert (both["eps"], both["attacks"], both["attacked"]) == (40, ["fgsm", "joint"], 9)
    assert both["evasion"]["0.05"]["value"] >= by_kind["joint"]["detectors"][OWN]["evasion"]["0.05"]["value"]

    planted = arrays(run / "planted.npz")["joint-40"]
    assert found["planted"].keys() == {"joint-40"}
    assert found["planted"]["joint-40"]["images"] == len(planted) > 0
    assert found["planted"]["joint-40"]["value"] == planted.mean()

    supervised = found["supervised"]
    told = {(row["classifier"], row["per_class"], row["trained_on"]) for row in supervised}
    assert told == set(product(CLASSIFIERS, CONFIG.supervised, ("fgsm-40", "joint-40")))
    assert len(supervised) == len(told)
    # They are shown those at odd places that an attack turned.
    shown = {
        attack
        for attack in ("fgsm-40", "joint-40")
        for found_of in [arrays(run / f"attack-{attack}.npz")]
        if (found_of["predicted"] != found_of["labels"])[1::2].any()
    }
    assert shown
    assert {tuple(sorted(row["auroc"])) for row in supervised} == {tuple(sorted(shown))}

    lost, again = run / "attack-fgsm-40.npz", run / "attack-joint-40.npz"
    fitted = [run / f"fit-{name}.npz" for name in (OWN, "feature-mahalanobis", "lid", "cdrp")]
    written = [file.stat().st_mtime_ns for file in (again, *fitted)]
    lost.unlink()
    assert evaluate_detection(str(tiny_run), CONFIG, run) == found
    assert lost.is_file()
    assert [file.stat().st_mtime_ns for file in (again, *fitted)] == written
    assert json.loads((run / RESULTS).read_text()) == found
    with pytest.raises(AlreadyExistsError, match=r"its config\.images is 16, and is 17 here"):
        evaluate_detection(str(tiny_run), replace(CONFIG, images=17), run)
    claimed = json.loads((run / CLAIM).read_text())
    (run / CLAIM).write_text(json.dumps(claimed | {"detector": "another"}))
    with pytest.raises(AlreadyExistsError, match="its detector is another, and is "):
        evaluate_detection(str(tiny_run), CONFIG, run)


def test_the_images_that_are_attacked_are_of_all_classes_though_a_set_goes_class_by_class(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load("digits")
    ordered = replace(splits, test=splits.test.take(np.argsort(splits.test.labels, kind="stable")))
    monkeypatch.setattr("penstock.attacks.evaluation.load", lambda *_, **__: ordered)
    config = EvaluationConfig(images=40, kinds=("signs",), eps=(40.0,), baselines=(), supervised=())
    evaluate_detection(str(tiny_run), config, tmp_path / "run")
    labels = arrays(tmp_path / "run" / "attack-signs-40.npz")["labels"]
    assert len(set(ordered.test.labels[:40].tolist())) == 1
    assert len(set(labels.tolist())) > 5


def test_no_threshold_is_set_on_images_that_scores_are_ranked_by(tiny_run: Path, tmp_path: Path) -> None:
    name = "minimum:gate-mahalanobis+doubt"
    config = EvaluationConfig(
        images=8, clean=8, kinds=("blur",), baselines=("energy",), supervised=(), detector=name
    )
    found = evaluate_detection(str(tiny_run), config, tmp_path / "run")
    checkpoint, _ = load_source(str(tiny_run))
    calibration = load("digits").calibration.images
    ranking = np.arange(len(calibration)) % 2 == 1
    score = fitted_score(checkpoint, name, calibration[ranking])
    kept = arrays(tmp_path / "run" / "clean-calibration.npz")[OWN]
    wanted = score.score(features_of(checkpoint.network, calibration[~ranking]))
    assert len(kept) == found["clean"][OWN]["0.05"]["calibration_images"] == 250
    np.testing.assert_allclose(kept, wanted, rtol=1e-4)
    assert len(arrays(tmp_path / "run" / "compared-calibration.npz")["energy"]) == 250


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of bundles of the tiny run."""
    models = tmp_path_factory.mktemp("models")
    kinds: dict[str, dict[str, Any]] = {
        "masked": {"lowering": "masked"},
        "bytes-int8": {"lowering": "masked", "precision": "int8", "input_type": "uint8"},
        "observed": {"dense": True, "observe": True},
    }
    for name, options in kinds.items():
        export(ExportOptions(source=str(tiny_run), repository=models, name=name, **options))
    return {name: models / name for name in kinds}


def test_bundles_are_judged_on_the_same_images(
    tiny_run: Path, exported: dict[str, Path], tmp_path: Path
) -> None:
    config = tmp_path / "quick.toml"
    config.write_text(
        'images = 40\nkinds = ["fgsm", "signs", "inflation"]\neps = [40.0]\nbaselines = []\n'
        "adaptive_steps = 3\ncounts = {fgsm = 30}\n"
    )
    command = ["detect", "evaluate", str(tiny_run), "--config", str(config), "--out", str(tmp_path / "run")]
    bundles = [text for name in ("masked", "bytes-int8") for text in ("--bundle", str(exported[name]))]
    assert main([*command, *bundles]) == 0
    found = json.loads((tmp_path / "run" / RESULTS).read_text())
    plain, narrow = found["bundles"]
    assert (plain["name"], plain["precision"], narrow["precision"]) == ("masked/1", "fp32", "int8")
    # In float32 the graph computes what PyTorch does.
    for rate in ("0.01", "0.05"):
        assert plain["clean"][rate]["measured"] == pytest.approx(found["clean"]["path"][rate]["measured"])
    for attack, served in zip(found["attacks"], plain["attacks"], strict=True):
        assert attack["turned"] == served["turned"]
        wanted = attack["detectors"]["path"]["shown"]["auroc"]["value"]
        assert served["detectors"]["path"]["shown"]["auroc"]["value"] == pytest.approx(wanted, abs=1e-3)
    for bundle in (plain, narrow):
        low, high = bundle["clean"]["as_served"]["interval_99"]
        assert bundle["clean"]["as_served"]["fpr"] == 0.05
        assert low <= bundle["clean"]["as_served"]["value"] <= high
        fgsm = bundle["attacks"][0]
        assert fgsm["as_served"]["evasion"]["value"] <= fgsm["turned"] / fgsm["attacked"]
        assert fgsm["as_served"]["turned"]["low"] <= fgsm["as_served"]["turned"]["value"]
        costly = bundle["attacks"][2]
        assert min(costly["latency_ms"][when] for when in ("before", "after")) > 0
        assert fgsm["latency_ms"] == {}
        assert 0 <= costly["active_macs"]["largest"] <= found["attacks"][2]["active_macs"]["bound"] + 1e-6
    # The bundle's own flags are those at its own threshold, to which the calibration scores lead again.
    with (
        np.load(tmp_path / "run" / "attack-fgsm-40.npz") as arrays,
        np.load(tmp_path / "run" / "clean-calibration.npz") as clean,
    ):
        flags = flags_at(clean["served1.path"], arrays["served1.path"], 0.05)
        assert (flags == arrays["served1.flag"]).mean() > 0.97
        assert (arrays["served1.path"] != arrays["served0.path"]).any()


def test_a_dense_network_with_observers_is_attacked_as_such(
    tiny_run: Path, exported: dict[str, Path], tmp_path: Path
) -> None:
    config = EvaluationConfig(
        images=20, kinds=("fgsm", "joint"), eps=(40.0,), baselines=(), adaptive_steps=5, observe=True
    )
    bundle = newest_bundle(exported["observed"])
    served = Served("observed", bundle.manifest, open_bundle(bundle, threads=1).run)
    found = evaluate_detection(str(tiny_run), config, tmp_path / "run", bundles=[served])
    fgsm = found["attacks"][0]
    assert 0 < fgsm["turned"] == found["bundles"][0]["attacks"][0]["turned"]
    with pytest.raises(InvalidArgumentError, match="evaluate them apart"):
        evaluate_detection(str(tiny_run), CONFIG, tmp_path / "other", bundles=[served])
    with pytest.raises(InvalidArgumentError, match="another checkpoint"):
        evaluate_detection("zoo:resnet20-cifar10", CONFIG, tmp_path / "other", bundles=[served])


def test_baselines_are_fitted_only_where_they_are_asked(tiny_run: Path) -> None:
    checkpoint, _ = load_source(str(tiny_run))
    asked = []

    def fit() -> dict[str, Score]:
        asked.append("fit")
        return {"first": lambda seen: seen.logits[:, 0].astype(np.float64)}

    bench = Bench(checkpoint, checkpoint.score, fit)
    images = load("digits").test.take(np.arange(5)).floats()
    alone = bench.judge_alone(images)
    assert not asked
    judged = bench.judge(images) | bench.judge(images)
    assert asked == ["fit"]
    assert judged.keys() - alone.keys() == {"first"}
    np.testing.assert_array_equal(judged[OWN], alone[OWN])


def test_judging_asks_the_network_once(tiny_run: Path) -> None:
    checkpoint, _ = load_source(str(tiny_run))
    images = load("digits").test.take(np.arange(300))  # more than a batch
    asked: list[int] = []
    scores: dict[str, Score] = {
        "energy": lambda seen: seen.logits[:, 0].astype(np.float64),
        "lid": lambda seen: seen.features.astype(np.float64).sum(axis=1),
    }
    bench = Bench(checkpoint, checkpoint.score, lambda: scores)
    handle = checkpoint.network.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    judged = bench.judge(images.floats())
    handle.remove()
    assert sum(asked) == 300
    for name, compared in bench.compare(images.images).items():
        np.testing.assert_allclose(judged[name], compared, rtol=1e-5)


def test_attacks_come_from_another_network_or_none_do(tiny_run: Path, tmp_path: Path) -> None:
    assert "transfer" not in {kind for kind, _ in EvaluationConfig().plan}
    assert ("transfer", 8.0) in EvaluationConfig(other="zoo:vgg16-cifar10").plan
    checkpoint, _ = load_source(str(tiny_run))
    with pytest.raises(InvalidArgumentError, match="made of the dense network that is attacked"):
        other_network(str(tiny_run), checkpoint)
    dense = deepcopy(checkpoint.dense)
    with torch.no_grad():
        next(dense.parameters()).mul_(1.1)
    replace(checkpoint, dense=dense).save(tmp_path / "elsewhere.safetensors")
    network, about = other_network(str(tmp_path / "elsewhere.safetensors"), checkpoint)
    assert about["name"] == "elsewhere.safetensors"
    assert network(torch.zeros(1, *checkpoint.input_shape)).logits.shape == (1, 10)
    config = EvaluationConfig(
        images=8, clean=8, kinds=("transfer",), eps=(40.0,), baselines=(), pgd_steps=2, supervised=()
    )
    said: list[str] = []
    assert evaluate_detection(str(tiny_run), config, tmp_path / "alone", say=said.append)["attacks"] == []
    assert "no other network is named, so that no attack is transferred" in said
    config = replace(config, other=str(tmp_path / "elsewhere.safetensors"))
    found = evaluate_detection(str(tiny_run), config, tmp_path / "run")
    assert [attack["attack"] for attack in found["attacks"]] == ["transfer"]
    replace(checkpoint, class_names=tuple("abcdefghij"), dense=dense).save(tmp_path / "letters.safetensors")
    with pytest.raises(InvalidArgumentError, match="knows other classes"):
        other_network(str(tmp_path / "letters.safetensors"), checkpoint)


def test_what_another_process_is_at_is_left_to_it_and_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "attack-pgd-8.npz"

    def other() -> Arrays:
        make_once(file, never, wait=False)
        waiting = Thread(target=lambda: found.append(kept(file, never)))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        assert not found
        started.append(waiting)
        return {"x": np.arange(3)}

    def never() -> Arrays:
        raise AssertionError("another process is at it")

    found: list[Arrays] = []
    started: list[Thread] = []
    make_once(file, other, wait=False)
    started[0].join(20)
    np.testing.assert_array_equal(found[0]["x"], [0, 1, 2])


def test_figures_are_told_by_one_of_those_who_work_together(tmp_path: Path) -> None:
    file, told = tmp_path / RESULTS, []

    def make() -> dict[str, Any]:
        told.append("told")
        return {"times": len(told)}

    began = written(file)
    assert began is None
    assert told_once(file, make, began) == {"times": 1}
    assert told_once(file, make, began) == {"times": 1}  # by another process that began as early
    assert json.loads(file.read_text()) == {"times": 1}
    assert told_once(file, make, written(file)) == {"times": 2}  # by one that begins now, maybe of newer code
