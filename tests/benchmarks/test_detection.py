"""Tables on detection: what they say of results, and of none."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import detection
import table_detection
import table_requirements
from tables import PAGES

from penstock.attacks.evaluation_config import AIMED
from penstock.nn.checkpoint import load_source

MACHINE = {
    "date": "2026-01-02",
    "commit": "abc",
    "cpu": "Some CPU",
    "cores": 2,
    "python": "3.12.0",
    "versions": {"torch": "2.9"},
}


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def rate(measured: float, resplit: float) -> dict[str, Any]:
    return {
        "measured": measured,
        "interval_95": [0.004, 0.016],
        "interval_99": [0.005, 0.017],
        "resplit_mean": resplit,
    }


def attack(kind: str, eps: float, area: float, evades: float, **more: Any) -> dict[str, Any]:
    """As an evaluation writes it, with what the tables read."""

    def of(value: float) -> dict[str, Any]:
        tpr = {"0.01": estimate(0.2), "0.05": estimate(0.6)}
        return {"auroc": estimate(value), "tpr": tpr}

    detectors = {"path": area} if kind in AIMED else {"path": area, "energy": 0.8, "lid": 0.7}
    return {
        "attack": kind,
        "eps": eps,
        "attacked": 100,
        "turned": 90,
        "detectors": {
            name: {
                "turned": of(value),
                "shown": of(value - 0.1),
                "failed": {"0.05": estimate(0.4)},
                "evasion": {"0.05": estimate(evades)},
            }
            for name, value in detectors.items()
        },
    } | more


SERVED = {"turned": estimate(0.6), "shown": estimate(0.4), "noise": estimate(0.2), "evasion": estimate(0.3)}
EVADING = {"attack": "joint", "eps": 8.0, "as_served": SERVED, "latency_ms": {}}
MACS = {
    "mean_before": 0.2,
    "mean": 0.4,
    "largest": 0.5,
    "bound": 0.6,
    "over_budget": None,
    "at_bound": {"before": estimate(0.3), "after": estimate(0.8)},
}
LEARNED = {
    "classifier": "adaboost",
    "per_class": 10,
    "trained_on": "pgd-8",
    "attacked_images": 57,
    "auroc": {"pgd-8": 0.9, "pgd-2": 0.8, "joint-8": 0.5},
    "interval_95": [0.85, 0.95],
}
CLEAN = {"as_served": estimate(0.05)}
INFLATED = {
    "attack": "inflation",
    "eps": 0.0,
    "as_served": {"turned": None, "shown": estimate(0.7), "noise": None, "evasion": estimate(0.0)},
    "latency_ms": {"before": 2.0, "after": 3.0},
}
RESULTS = {
    "networks": {
        "vgg16-cifar10": {
            "machine": MACHINE,
            "false_positives": [
                {
                    "lowering": "routed",
                    "precision": "int8",
                    "detector": "doubt",
                    "accuracy": 0.91,
                    "rates": {"0.01": rate(0.01, 0.0099), "0.05": rate(0.02, 0.053)},
                }
            ],
            "attacks": {
                "attacks": [
                    attack("pgd", 8.0, 0.95, 0.3, noise={"0.05": estimate(0.2)}),
                    attack("pgd", 2.0, 0.75, 0.5),
                    attack("square", 2.0, 0.75, 0.5, turned=3),
                    attack("jpeg", 0.0, 0.6, 0.0),
                    attack("joint", 8.0, 0.5, 0.99),
                    attack("signs", 8.0, 0.5, 0.0),
                    attack("inflation", 0.0, 0.5, 0.0, active_macs=MACS),
                ],
                "any": [
                    {"eps": 8.0, "attacked": 64, "evasion": {"0.05": estimate(0.9)}},
                ],
                "planted": {
                    "joint-1": estimate(0.95) | {"images": 20},
                    "joint-8": estimate(0.85) | {"images": 30},
                    "matching-1": {"images": 0},
                    "matching-8": estimate(0.6) | {"images": 30},
                },
                "detector": "doubt",
                "bundles": [
                    {"name": name, "detector": detector, "clean": CLEAN, "attacks": attacks}
                    for name, detector, attacks in (
                        ("routed-fp32", "doubt", [INFLATED, EVADING]),
                        ("routed-other", "gate-mahalanobis", [EVADING]),
                    )
                ],
                "supervised": [LEARNED],
                "means": {
                    "attacks": ["pgd-8", "pgd-2"],
                    "auroc": {"path": estimate(0.85), "energy": estimate(0.8), "lid": estimate(0.7)},
                    "ahead": {"energy": estimate(0.05), "lid": estimate(0.15)},
                },
            },
        }
    }
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_false_alarms_outside_of_what_was_expected_are_said_to_be() -> None:
    head, _, line, empty, note = table_detection.false_positives(RESULTS)
    found = dict(zip(cells(head), cells(line), strict=False))
    assert found["network"] == "VGG-16-BN, CIFAR-10"
    assert found["flagged at 1% (95 %)"] == "1.00% (0.4% to 1.6%)"
    assert found["expected at 1% (99 %)"] == "0.5% to 1.7%"
    assert found["expected at 5% (99 %)"] == "0.5% to 1.7%, **missed**"
    assert cells(line)[7] == "0.99%"
    assert cells(line)[10] == "5.30%, **missed**"
    assert (empty, note.split(";")[0]) == ("", "Measured 2026-01-02 at abc on Some CPU, 2 cores")


def test_attacks_controls_and_those_who_know_stand_apart() -> None:
    _, _, *lines = table_detection.detection(RESULTS)
    assert [cells(line)[1:5] for line in lines[:3]] == [
        ["pgd", "8/255", "100", "90.0%"],
        ["pgd", "2/255", "100", "90.0%"],
        ["square", "2/255", "100", "3.0%"],
    ]
    assert cells(lines[3])[1:5] == ["jpeg", "-", "100", "-"]
    assert cells(lines[0])[6:] == [
        *("20.0% (10.0% to 30.0%)", "60.0% (50.0% to 70.0%)"),
        *("20.0% (10.0% to 30.0%)", "40.0% (30.0% to 50.0%)", "energy", "0.800 (0.700 to 0.900)"),
    ]
    assert cells(lines[3])[5] == "0.500 (0.400 to 0.600)"  # a control has no images that were turned
    assert cells(lines[3])[-2:] == ["-", "-"]  # nor is another score that suspects it the better one
    head, _, plain, _, knowing, any_, *_ = table_detection.evasion(RESULTS)
    assert cells(head)[2:] == ["images", "2/255 (95 %)", "8/255 (95 %)"]
    assert cells(plain)[1:] == ["pgd", "100", "50.0% (40.0% to 60.0%)", "30.0% (20.0% to 40.0%)"]
    assert cells(knowing)[1:] == ["joint", "100", "-", "99.0% (89.0% to 109.0%)"]
    assert cells(any_)[1:] == ["any of these", "64", "-", "90.0% (80.0% to 100.0%)"]


def test_scores_are_ordered_by_their_mean_over_attacks() -> None:
    _, _, *lines = table_detection.scores(RESULTS)
    assert [cells(line)[1:] for line in lines[:3]] == [
        ["path", "0.850 (0.750 to 0.950)", "-", "0.750", "1 of 2"],
        ["energy", "0.800 (0.700 to 0.900)", "0.050 (-0.050 to 0.150)", "0.800", "1 of 2"],
        ["lid", "0.700 (0.600 to 0.800)", "0.150 (0.050 to 0.250)", "0.700", "0 of 2"],
    ]
    assert "left out: `square-2` (3 of 100)" in lines[-1]


def test_adaptive_attacks_stand_beside_the_graphs_that_they_were_aimed_at() -> None:
    _, _, *lines = table_detection.served(RESULTS)
    assert [cells(line)[1:] for line in lines[:-2]] == [
        ["routed-fp32", "inflation", "-", "5.0% (-5.0% to 15.0%)", "70.0% (60.0% to 80.0%)", "-", "-"],
        [
            *("routed-fp32", "joint", "8/255", "5.0% (-5.0% to 15.0%)", "60.0% (50.0% to 70.0%)"),
            *("20.0% (10.0% to 30.0%)", "30.0% (20.0% to 40.0%)"),
        ],
    ]


def test_supervised_detectors_say_how_many_images_they_had() -> None:
    _, _, line, *_ = table_detection.supervised(RESULTS)
    assert cells(line)[1:] == [
        *("pgd-8", "adaboost", "10", "57", "0.900 (0.850 to 0.950)", "0.500", "0.500"),
    ]


def test_inflation_says_what_images_cost_and_how_long_graphs_take() -> None:
    _, _, line, *_ = table_detection.inflation(RESULTS)
    assert cells(line)[1:] == [
        *("100", "20.0%", "40.0%", "50.0%", "60.0%"),
        *("30.0% (20.0% to 40.0%)", "80.0% (70.0% to 90.0%)", "-", "60.0% (50.0% to 70.0%)"),
    ]
    _, _, line, *_ = table_detection.inflated_latency(RESULTS)
    assert cells(line)[1:] == ["routed-fp32", "2.00", "3.00", "1.50"]


def test_each_requirement_has_a_verdict() -> None:
    _, _, *lines = table_requirements.requirements(RESULTS)
    found = [cells(line)[3:] for line in lines[:-2] if "planted" in line]
    assert [verdict for _, verdict in found] == ["yes", "**no**", "not measured", "not measured", "**no**"]
    verdicts = {cells(line)[1]: cells(line)[3:] for line in lines[:-2]}
    assert cells(lines[0])[1:] == ["false alarms at 1%", "in the 99 % interval", "1 of 1 graphs", "yes"]
    assert cells(lines[1])[1:3] == ["false alarms at 1%", "0.4% to 1.7%"]
    assert verdicts["false alarms at 5%"] == ["0 of 1 graphs", "**no**"]
    assert verdicts["AUROC, PGD 8/255"] == ["0.950 (0.850 to 1.050)", "yes"]
    assert verdicts["AUROC, ART's AutoAttack 8/255"] == ["-", "not measured"]
    assert verdicts["AUROC, PGD 4/255"] == ["-", "not measured"]
    assert verdicts["mean AUROC less energy's"] == ["0.050 (-0.050 to 0.150)", "**no**"]  # by chance, perhaps
    assert verdicts["mean AUROC less max-softmax's"] == ["-", "not measured"]
    assert verdicts["flagged of random signs, 8/255, at 5 %"] == [
        "60.0% (50.0% to 70.0%), 60.0% (50.0% to 70.0%)",
        "**no**",
    ]


def test_a_graph_of_another_checkpoint_is_made_anew(tiny_run: Path, tmp_path: Path) -> None:
    parsed = Namespace(forms=["masked-fp32"], runs=tmp_path)

    def version(source: Path) -> str:
        checkpoint, origin = load_source(str(source))
        made = detection._bundles(str(source), checkpoint, parsed)
        assert made["masked-fp32"].manifest.source["sha256"] == origin["sha256"]
        return made["masked-fp32"].folder.name

    assert version(tiny_run) == "1"
    assert version(tiny_run) == "1"
    checkpoint, _ = load_source(str(tiny_run))
    replace(checkpoint, figures={"epochs": 1}).save(tmp_path / "later.safetensors")
    assert version(tmp_path / "later.safetensors") == "2"


def test_without_results_all_tables_say_so() -> None:
    for table in PAGES["docs/detection-results.md"].values():
        assert table.lines({"networks": {}}) == []
        assert table.source == "detection.json"
