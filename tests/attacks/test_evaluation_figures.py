"""Figures on arrays as pieces of work leave them, whose answer is known."""

from __future__ import annotations

import numpy as np

from penstock.attacks.evaluation_config import OWN
from penstock.attacks.evaluation_figures import Arrays, attack_figures
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
