"""Figures on arrays as pieces of work leave them, whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.attacks.baselines import evenly
from penstock.attacks.evaluation_config import OWN
from penstock.attacks.evaluation_figures import Arrays, any_figures, attack_figures, mean_figures
from penstock.attacks.metrics import auroc, auroc_rounds
from penstock.attacks.served import attack_served

CLEAN: dict[str, Arrays] = {part: {OWN: np.arange(199.0)} for part in ("calibration", "test")}


def piece(turned: int, failed: int) -> Arrays:
    """An attack that turned some and left the others as they were; noise as large as what it did is flagged."""
    count = turned + failed
    done = np.arange(count) < turned
    return {
        "labels": np.zeros(count, np.int64),
        "predicted": done.astype(np.int64),
        "l2": done.astype(np.float64),
        "active_macs": np.ones(count),
        OWN: np.where(done, 500.0, 0.0),
        "noise": np.where(done, 500.0, 0.0),
    }


def test_noise_counts_where_the_attack_did_something() -> None:
    found = attack_figures(piece(turned=20, failed=60), CLEAN, [OWN], seed=0)
    assert found["noise"]["0.05"]["value"] == 1
    assert 0.8 < found["noise"]["0.05"]["low"] < 1
    assert found["detectors"][OWN]["failed"]["0.05"]["value"] == 0
    assert attack_figures(piece(turned=0, failed=9), CLEAN, [OWN], seed=0)["noise"] is None


def test_a_bundle_counts_noise_where_its_own_answer_was_turned() -> None:
    plain = piece(turned=20, failed=60)
    names = {"predicted": "predicted", "active_macs": "active_macs", OWN: OWN, "noise": f"noise-{OWN}"}
    found = plain | {f"served0.{new}": plain[old] for old, new in names.items()}
    found |= {f"served0.{name}": plain[OWN] > 100 for name in ("flag", "noise-flag")}
    before = {"served0.predicted": plain["labels"]}
    clean = {part: {f"served0.{OWN}": arrays[OWN]} for part, arrays in CLEAN.items()}
    served = attack_served(found, before, clean, 0, seed=0)
    assert served["noise"]["0.05"]["value"] == 1
    assert served["as_served"]["noise"]["value"] == 1
    assert served["as_served"]["failed"]["value"] == 0


def test_what_costs_more_than_nearly_all_honest_images_is_over_budget() -> None:
    clean = {part: arrays | {"active_macs": np.linspace(0, 1, 199)} for part, arrays in CLEAN.items()}
    found = piece(turned=0, failed=10) | {"bound": np.array([1.2]), "before": np.full(10, 0.3)}
    found["active_macs"] = np.array([0.5] * 7 + [1.1] * 3)
    macs = attack_figures(found, clean, [OWN], seed=0)["active_macs"]
    assert (macs["over_budget"]["value"], macs["bound"]) == (0.3, 1.2)
    assert [macs["at_bound"][when]["value"] for when in ("before", "after")] == [0, 0]


def test_where_many_honest_images_cost_all_there_is_no_budget_but_a_share_of_those_that_do() -> None:
    costs = np.where(np.arange(199) < 60, 1.2, 0.2)  # a cascade asks its second member, or does not
    clean = {part: arrays | {"active_macs": costs} for part, arrays in CLEAN.items()}
    found = piece(turned=0, failed=10) | {"bound": np.array([1.2]), "before": np.array([0.2] * 7 + [1.2] * 3)}
    found["active_macs"] = np.full(10, np.float32(1.2))
    macs = attack_figures(found, clean, [OWN], seed=0)["active_macs"]
    assert macs["over_budget"] is None
    assert [macs["at_bound"][when]["value"] for when in ("before", "after")] == [0.3, 1]


def test_who_tries_all_attacks_keeps_what_works_on_each_image() -> None:
    founds: dict[tuple[str, float], Arrays] = {}
    for piece_, evaded, count in (
        (("pgd", 2.0), [0], 6),
        (("joint", 8.0), [1, 2], 4),
        (("orthogonal", 8.0), [2, 3, 5], 6),
        (("signs", 8.0), [0, 1, 2, 3], 6),
        (("cw", 0.0), [0, 1, 2, 3], 6),
    ):
        found = piece(turned=count, failed=0)
        found[OWN] = np.where(np.isin(np.arange(count), evaded), 0.0, 500.0)
        founds[piece_] = found
    small, large = any_figures(founds, CLEAN)
    assert (small["eps"], small["attacks"], small["attacked"]) == (2.0, ["pgd"], 6)
    assert small["evasion"]["0.05"]["value"] == pytest.approx(1 / 6)
    # What worked within the smaller bound works within the larger one; the last two of six were not tried by all.
    assert (large["attacks"], large["attacked"]) == (["joint", "orthogonal", "pgd"], 4)
    assert large["evasion"]["0.05"]["value"] == 1
    assert any_figures({("jpeg", 0.0): piece(turned=1, failed=1)}, CLEAN) == []


def test_means_over_attacks_compare_scores_on_the_same_images() -> None:
    draw = np.random.default_rng(0)
    clean: dict[str, Arrays] = {"test": {OWN: draw.normal(0, 1, 300)}}
    clean["test"]["twin"] = clean["test"][OWN]
    clean["test"]["worse"] = draw.normal(0, 1, 300)
    founds = {}
    for kind, eps, shift in (
        ("pgd", 8.0, 3.0),
        ("pgd", 2.0, 1.0),
        ("joint", 8.0, -3.0),
        ("signs", 8.0, -3.0),
    ):
        found = piece(turned=80, failed=20)
        found[OWN] = draw.normal(shift, 1, 100)
        founds[kind, eps] = found | {"twin": found[OWN], "worse": draw.normal(shift / 2, 1, 100)}
    means = mean_figures(founds, clean, [OWN, "twin", "worse"], seed=0)
    assert means is not None
    assert means["attacks"] == ["pgd-8", "pgd-2"]  # who knows the detector and what is no attack are left out
    turned = [auroc(clean["test"][OWN], founds["pgd", eps][OWN][:80]) for eps in (8.0, 2.0)]
    assert np.isclose(means["auroc"][OWN]["value"], np.mean(turned))
    assert means["auroc"][OWN]["low"] < np.mean(turned) < means["auroc"][OWN]["high"]
    assert means["ahead"]["twin"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert means["ahead"]["worse"]["low"] > 0
    few = {("pgd", 8.0): piece(turned=9, failed=60)}  # an area of nine images is mostly chance
    assert mean_figures(few, clean, [OWN], seed=0) is None
    assert mean_figures(few | founds, clean, [OWN], seed=0) == mean_figures(founds, clean, [OWN], seed=0)


def test_an_attack_that_turned_a_single_image_has_rounds_without_it() -> None:
    one, all_ = (np.arange(10) < count for count in (1, 10))
    rounds = auroc_rounds(np.arange(5.0), [(np.full(10, 9.0), one), (np.full(10, 9.0), all_)])
    assert 0.2 < np.isnan(rounds[:, 0]).mean() < 0.5  # 0.9 ** 10
    assert (rounds[:, 1] == 1).all()


def test_an_attack_on_the_first_images_only_has_its_share_of_the_same_draws() -> None:
    draw = np.random.default_rng(0)
    honest, scores = draw.normal(0, 1, 300), draw.normal(1, 1, 100)
    every = np.ones(100, np.bool_)
    whole, few = auroc_rounds(honest, [(scores, every), (scores[:30], every[:30])]).T
    masked = auroc_rounds(honest, [(scores, every), (scores, np.arange(100) < 30)])[:, 1]
    np.testing.assert_allclose(few, masked)
    assert few.std() > 1.3 * whole.std()


def test_a_score_of_fewer_honest_images_is_compared_on_those() -> None:
    draw = np.random.default_rng(0)
    honest = draw.normal(0, 1, 300)
    clean: dict[str, Arrays] = {"test": {OWN: honest, "few": honest[evenly(300, 100)]}}
    found = piece(turned=80, failed=20)
    found[OWN] = draw.normal(1, 1, 100)
    means = mean_figures({("pgd", 8.0): found | {"few": found[OWN]}}, clean, [OWN, "few"], seed=0)
    assert means is not None
    assert means["auroc"]["few"] != means["auroc"][OWN]
    assert means["ahead"]["few"] == {"value": 0.0, "low": 0.0, "high": 0.0}  # pairs, or chance would be left
