"""Tables from results: what they say of many runs, of few, and of none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import table_disentangle
import table_learning
import table_speed
import table_speed_gpu
import table_speed_requirements
from speed_subjects import forms, networks
from study_runs import read_study
from table_main_job import FIGURES
from tables import PAGES, MarksError, fill, main

MACHINE = {
    "date": "2026-01-02",
    "commit": "abc",
    "cpu": "Some CPU",
    "cores": 2,
    "python": "3.12.0",
    "versions": {"torch": "2.9"},
}


def row(name: str, kind: str, budget: float | None, accuracy: float, **more: Any) -> dict[str, Any]:
    """As the study writes it, with what the tables read."""
    place = {"network": "resnet20", "kind": kind, "budget": budget, "seed": 0, "best": False}
    return {
        "name": name,
        "row": place | {key: more.pop(key) for key in ("network", "seed", "best") if key in more},
        "data": "cifar10",
        "images": 8982,
        "dense_accuracy": 0.916,
        "decoupled_accuracy": accuracy,
        "loss_points": 100 * (0.916 - accuracy),
        "mac_fraction": (budget or 0.6) - 0.003,
        "varying": 0.5,
        "input_dependent": 0.4,
        "epochs": [45],
        "machine": MACHINE,
    } | more


SEEDS = [
    row(f"resnet20-seed{seed}", "gates", 0.5, accuracy, seed=seed, best=True)
    for seed, accuracy in enumerate((0.905, 0.912, 0.910))
]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_seeds_of_one_network_share_a_line_with_mean_and_range() -> None:
    head, _, line, empty, *notes = table_learning.best_settings({"rows": SEEDS, "dense": {}})
    assert dict(zip(cells(head), cells(line), strict=True)) == {
        "network": "ResNet-20",
        "data": "CIFAR-10",
        "images": "8,982",
        "paths": "gates",
        "accuracy, dense": "91.60%",
        "accuracy": "90.90% (90.50% to 91.20%)",
        "points lost": "0.70 (0.40 to 1.10)",
        "MACs": "49.7% (49.7% to 49.7%)",
        "filters that depend on the input": "40.0% (40.0% to 40.0%)",
        "epochs": "45",
        "seeds": "0, 1, 2",
    }
    assert empty == ""
    best = [run.name for run in read_study().values() if run.row is not None and run.row.best]
    missing = [name for name in best if name not in ("resnet20-seed0", "resnet20-seed1", "resnet20-seed2")]
    assert len(missing) >= 3
    assert notes == [
        f"Not measured yet: {', '.join(f'`{name}`' for name in missing)}.",
        "",
        "Measured 2026-01-02 at abc on Some CPU, 2 cores; Python 3.12.0, torch 2.9.",
    ]


def test_at_equal_macs_budgets_are_columns_and_what_is_missing_says_so() -> None:
    rows = [
        row("resnet20-cascade-35", "cascade-dense", 0.35, 0.88, epochs=[45, 12, 12]),
        row("resnet20-k1-20", "k1-long", 0.2, 0.7),  # no column
        row("resnet20-k1-50", "k1", 0.5, 0.91, epochs=[45, 12]),
        row("resnet56", "gates", 0.5, 0.93, network="resnet56"),
        *SEEDS,
        row("resnet20-gates-25", "gates", 0.25, 0.85, epochs=[30]),
    ]
    head, _, *lines = table_learning.equal_macs({"rows": rows, "dense": {}})
    assert cells(head)[1:4] == ["50% of the MACs", "35% of the MACs", "25% of the MACs"]
    assert [cells(line) for line in lines[:3]] == [
        [
            "gates",
            "90.90% (90.50% to 91.20%) @ 49.7% (40.0%)",
            "-",
            "85.00% @ 24.7% (40.0%)",
            "45 / - / 30",
            "0, 1, 2 / - / 0",
        ],
        ["K = 1, static", "91.00% @ 49.7% (40.0%)", "-", "-", "45 + 12", "0"],
        [
            "cascade of a static path and the dense network",
            "-",
            "88.00% @ 34.7% (40.0%)",
            "-",
            "45 + 12 + 12",
            "0",
        ],
    ]
    assert "`resnet20-k1-35`" in lines[4]
    assert "resnet20-k1-20" not in lines[4]


def test_the_papers_preset_has_lines_of_its_own() -> None:
    rows = [*SEEDS, row("resnet56-paper", "paper", None, 0.92, network="resnet56", epochs=[12])]
    _, _, line, *notes = table_learning.paper_preset({"rows": rows, "dense": {}})
    assert cells(line) == ["ResNet-56", "91.60%", "92.00%", "-0.40", "59.7%", "50.0%", "40.0%", "12", "0"]
    assert notes[1] == "Not measured yet: `resnet20-paper`."


def test_commits_and_days_of_several_measurements_are_all_named() -> None:
    later = MACHINE | {"date": "2026-01-05", "commit": "def"}
    *_, last = table_learning.best_settings({"rows": [SEEDS[0], SEEDS[1] | {"machine": later}], "dense": {}})
    assert last.startswith("Measured 2026-01-02 to 2026-01-05 at abc, def on Some CPU, 2 cores; Python")


def disentangled(**changes: Any) -> dict[str, Any]:
    """As ``benchmarks/disentangle.py`` writes it, for a network of eight layers."""
    tasks = {
        "images": 100,
        "dense_recall": [0.9, 1.0],
        "recall": [0.8, 0.9],
        "dense_balanced": [0.95, 0.97],
        "balanced": [0.7, 0.8],
        "density": [0.5, 0.3],
        "mac_share": [0.4, 0.2],
    }
    hits = {
        "mask_rate": 0.05,
        "mosaics": 100,
        "mean": [0.25, 0.27, 0.3, 0.3, 0.35, 0.35, 0.5, 0.6],
        "error": [0.01] * 6 + [0.02, 0.04],
        "last": 0.48,
        "open_mean": [0.25] * 8,
    }
    figures = {
        "beta": 0.02,
        "candidates": [{"beta": 0.02, "kept": 0.931}, {"beta": 0.2, "kept": 0.5}],
        "dense_accuracy": 0.9,
        "similarity": 0.4,
        "expected_similarity_by_layer": [0.2, 0.3],
        "tasks": tasks,
        "hits": [hits],
        "agreement": {"spearman": 0.61, "p_value": 0.0005},
        "errors": {"errors": 70, "percentile": 0.8, "interval_95": [0.75, 0.85], "p_value": 0.01},
        "concepts": {"diversity": 3.5, "whole_by_layer": [8.0, 9.0]},
    }
    entry = {"machine": MACHINE, "settings": {"form": "release", "keep": 0.9}, "figures": figures | changes}
    return {"networks": {"resnet20-cifar10": entry}}


def test_sub_architectures_stand_beside_the_whole_network_and_chance() -> None:
    _, _, line, *_, last = table_disentangle.tasks(disentangled())
    assert cells(line) == [
        *("`resnet20-cifar10`", "release", "0.02", "90.00%", "95.0%", "85.0%"),
        *("96.0%", "75.0%", "40.0%", "30.0%", "100", "93.1%", "90%"),
    ]
    assert last.startswith("Measured 2026-01-02 at abc")
    _, _, line, *_ = table_disentangle.classes(disentangled())
    assert cells(line)[1:] == [
        *("0.400", "0.250", "0.61", "0.0005", "70", "80.0%", "75.0% to 85.0%", "0.01", "3.50", "8.50"),
    ]
    _, _, line, *_ = table_disentangle.hit_rates(disentangled())
    assert cells(line)[1:] == [
        *("5%", "26.0% ± 1.0", "30.0% ± 1.0", "35.0% ± 1.0", "55.0% ± 3.0", "48.0%", "25.0%", "100"),
    ]


def test_a_beta_that_keeps_too_little_is_marked_and_the_mark_explained() -> None:
    missed = disentangled(candidates=[{"beta": 0.02, "kept": 0.8188}])
    head, _, line, *notes = table_disentangle.tasks(missed)
    assert dict(zip(cells(head)[-2:], cells(line)[-2:], strict=True)) == {
        "kept (validation)": "**81.9%**",
        "to keep": "90%",
    }
    assert any("**bold** where no beta that was tried keeps what was asked for" in note for note in notes)


def test_a_network_without_errors_or_mosaics_has_no_figures_of_them() -> None:
    faultless = {"errors": 0, "percentile": None, "interval_95": None, "p_value": None}
    _, _, line, *_ = table_disentangle.classes(disentangled(errors=faultless))
    assert cells(line)[5:9] == ["0", "none", "none", "none"]
    assert table_disentangle.hit_rates(disentangled(hits=None)) == []
    assert table_disentangle.tasks({"networks": {}}) == []


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """All pages, with marks only, and a folder ``results`` with the main job alone."""
    for page, tables in PAGES.items():
        (tmp_path / page).parent.mkdir(exist_ok=True)
        marks = "".join(f"<!-- {mark} -->\nold\n<!-- /{mark} -->\n" for mark in tables)
        (tmp_path / page).write_text(f"before\n{marks}after\n")
    demo = {key: 0.5 for _, key, _ in FIGURES}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "main_job.json").write_text(
        json.dumps({"demo": {"digits": demo | {"fpr_n": 1000, "tpr_pgd": None}}, "machine": MACHINE})
    )
    return tmp_path


def test_pages_are_written_and_compared_and_what_is_missing_is_said(
    pages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = (["--check"], pages, pages / "results")
    assert main(*check) == 1
    assert (
        "README.md, docs/speed-results.md, docs/serving-results.md, docs/stress-results.md, docs/batching.md, "
        "docs/decisions/0014-no-path-aware-batching-yet.md, docs/detection-results.md, docs/learning-results.md: "
        "not what benchmarks/results says" in capsys.readouterr().err
    )
    assert "old" in (pages / "README.md").read_text()
    assert main([], *check[1:]) == 0
    assert main(*check) == 0
    readme, learning = ((pages / page).read_text() for page in ("README.md", "docs/learning-results.md"))
    assert "| honest test images | 1,000 |" in readme
    assert "| of these, flagged | none |" in readme
    assert readme.count("Not measured yet") == 3
    assert learning.count("Not measured yet: `benchmarks/study.py` writes") == 5
    assert learning.count("Not measured yet: `benchmarks/disentangle.py` writes") == 3
    assert "old" not in readme + learning
    (pages / "results" / "learning.json").write_text(json.dumps({"rows": SEEDS, "dense": {}}))
    assert main(*check) == 1
    assert main([], *check[1:]) == 0
    assert "ResNet-20" in (pages / "README.md").read_text()


def test_a_page_has_one_place_for_each_table(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill("a\n<!-- x -->\nb\n<!-- /x -->\nc", {"x": "new\n"}) == "a\n<!-- x -->\nnew\n<!-- /x -->\nc"
    for text in ("", "<!-- /x -->\n<!-- x -->\n", 2 * "<!-- x -->\n<!-- /x -->\n"):
        with pytest.raises(MarksError, match="needs one place for x"):
            fill(text, {"x": ""})
    (pages / "README.md").write_text("nothing")
    assert main([], pages, pages / "results") == 1
    assert "README.md needs one place for main-job" in capsys.readouterr().err


def speed(form: str, batch: int, ms: float, **more: Any) -> dict[str, Any]:
    """As `speed.py` writes it."""
    return {
        "network": "VGG-16-BN",
        "size": 32,
        "form": form,
        "precision": "fp32",
        "engine": "onnxruntime",
        "batch": batch,
        "threads": 1,
        "accuracy": 0.93,
        "macs": 0.35,
        "ms": ms,
        "speed_up": 10 / ms,
        "efficiency": 10 / ms * 0.35,
        "export_seconds": 30.4,
        "export_peak_mb": 1234.5,
        "file_mb": 60.04,
        "machine": MACHINE,
    } | more


def test_speed_is_told_shortly_and_in_full() -> None:
    rows = [
        speed("dense", 1, 10.0, macs=1.0),
        speed("cascade", 1, 4.0),
        speed("dense", 1, 5.0, engine="openvino"),
        speed("cascade", 8, 30.0, accuracy=None),
        speed("Torch-Pruning", 1, 5.0, export_seconds=None, export_peak_mb=None),
    ]
    head, _, dense, cascade, *_ = table_speed.summary({"rows": rows})
    assert cells(head) == ["network", "form", "accuracy", "MACs", "ms", "speed-up", "efficiency"]
    assert cells(dense)[1] == "dense"
    assert cells(cascade) == ["VGG-16-BN, 32x32", "cascade", "93.00%", "35.0%", "4.000", "2.50", "0.88"]
    lines = table_speed.everything({"rows": rows})
    assert [line for line in lines if line.startswith("###")] == [
        "### Batch 1, 1 thread",
        "### Batch 8, 1 thread",
    ]
    assert sum("openvino" in line for line in lines) == 1
    assert sum("timing only" in line for line in lines) == 1
    _, _, *exported = table_speed.exports({"rows": rows})
    assert [cells(line)[3:] for line in exported if line.startswith("|")] == [["30", "1,234", "60.0"]] * 2
    assert table_speed.summary({"rows": []}) == []


def test_the_short_table_shows_a_form_once_and_with_its_flags() -> None:
    forms = ("dense", "cascade", "cascade, with flags", "routed, K = 4, density 0.5", "K = 1, density 0.5")
    _, _, *lines = table_speed.summary({"rows": [speed(form, 1, 4.0) for form in forms]})
    shown = [cells(line)[1] for line in lines if line.startswith("|")]
    assert shown == ["dense", "cascade, with flags", "K = 1, density 0.5"]


def test_growth_shows_networks_of_several_numbers_of_prototypes_beside_the_dense_one() -> None:
    rows = [
        speed("dense", 1, 10.0, export_seconds=3.0),
        speed("K = 1, density 0.5", 1, 5.0, export_seconds=4.0),
        speed("routed, K = 16, density 0.5", 1, 6.0, export_seconds=20.0),
        speed("routed, K = 2, density 0.5", 1, 6.0, export_seconds=5.0),
        speed("routed, K = 2, density 0.5, with flags", 1, 6.0),
        speed("routed, K = 2, density 0.5", 8, 6.0),
        speed("K = 1, density 0.5", 1, 2.0, network="another"),
    ]
    _, _, *lines = table_speed.growth({"rows": rows})
    assert [cells(line)[1:4] for line in lines if line.startswith("|")] == [
        ["dense", "-", "3"],
        ["density 0.5", "1", "4"],
        ["density 0.5", "2", "5"],
        ["density 0.5", "16", "20"],
    ]
    assert table_speed.growth({"rows": []}) == []


def test_gates_that_auto_gave_up_for_the_dense_network_saved_nothing() -> None:
    named = {"network": "ResNet-18"}
    rows = [
        speed("gathered, density 0.5", 1, 9.0, macs=0.5, speed_up=1.2, efficiency=0.6, **named),
        speed("gates, density 0.5, auto", 1, 10.0, macs=1.0, speed_up=1.0, efficiency=1.0, **named),
    ]
    _, _, *lines = table_speed_requirements.requirements({"rows": rows})
    judged = {cells(line)[1]: cells(line)[-2:] for line in lines if line.startswith("| ResNet-18")}
    assert judged["gates, density 0.5, `gathered` as it is: efficiency"] == ["0.60", "**no**"]
    assert judged["gates, density 0.5, as `auto` tunes it: efficiency"] == ["0.50", "**no**"]


def test_requirements_of_speed_are_judged_by_their_worst_row() -> None:
    rows = [
        speed("dense", 1, 10.0, accuracy=0.93),
        speed("cascade, auto", 1, 3.9, accuracy=0.926),
        speed("cascade, auto", 1, 4.1, threads=2, accuracy=0.931),
        speed("cascade, auto", 8, 10.3, engine="openvino"),
        speed("cascade of it and dense", 1, 4.0),
        speed("cascade of it and dense, with flags", 1, 4.4),
        speed("cascade, auto, with flags", 8, 5.0),
    ]
    _, _, *lines = table_speed_requirements.requirements({"rows": rows})
    judged = [cells(line) for line in lines if line.startswith("|")]
    planned = 4 * sum(
        "auto" in form.label and "flags" not in form.label
        for network in networks(["*"])
        for form in forms(network)
    )
    measured = {(row[0], row[1]): row[2:] for row in judged if row[-1] != "not measured"}
    assert measured == {
        ("all", "`auto`, no flags, over dense"): [
            "VGG-16-BN, cascade, auto, batch 1, 2 threads, fp32",
            *("at least 0.98", "2.44", f"so far; {planned - 2} not measured"),
        ],
        ("VGG-16-BN", "`auto` with flags, over dense"): [
            "batch 8, 1 thread, fp32",
            *("at least 1.2", "2.00", "so far; 3 not measured"),
        ],
        ("VGG-16-BN", "cascade, `auto`, fp32, over dense"): [
            "batch 1, 2 threads, fp32",
            *("at least 2.5", "2.44", "**no**"),
        ],
        ("VGG-16-BN", "cascade, `routed`, fp32: what flags add"): [
            "batch 1, 1 thread, fp32",
            *("at most 5 %", "10.00 %", "**no**"),
        ],
        ("VGG-16-BN", "cascade, `routed`, fp32, with flags: efficiency"): [
            "batch 1, 1 thread, fp32",
            *("at least 0.82", "0.80", "**no**"),
        ],
        # Threads have no say in an accuracy, so the row of two is beside no dense one here.
        ("VGG-16-BN", "cascade, `auto`: accuracy lost, points"): [
            "batch 1, 1 thread, fp32",
            *("at most 0.5", "0.40", "so far; 2 not measured"),
        ],
    }
    assert table_speed_requirements.requirements({"rows": []}) == []


def test_flags_are_priced_beside_the_same_form_without_them() -> None:
    rows = [
        speed("cascade", 1, 4.0),
        speed("cascade, with flags", 1, 4.2),
        speed("cascade, with flags", 8, 20.0),  # of this batch there is no other
        speed("cascade", 1, 2.0, precision="int8"),
    ]
    _, _, *lines = table_speed.flags({"rows": rows})
    assert [cells(line)[1:] for line in lines if line.startswith("|")] == [
        ["cascade", "fp32", "onnxruntime", "1", "1", "4.000", "4.200", "+5.0%"]
    ]


@pytest.mark.parametrize("gpu", [None, "Some GPU, driver 1"])
def test_figures_of_a_gpu_name_it_and_those_without_say_so(gpu: str | None) -> None:
    line = {
        "network": "net",
        "size": 32,
        "form": "dense",
        "precision": "fp16",
        "provider": "cpu" if gpu is None else "cuda",
        "batch": 64,
        "cuda_graph": gpu is not None,
        "macs": 1.0,
        "ms": 2.0,
        "images_per_second": 32000.0,
        "speed_up": 1.0,
        "efficiency": 1.0,
        "difference": 0.00123,
        "machine": MACHINE | {"gpu": gpu},
    }
    head, _, only, _, *notes = table_speed_gpu.everything({"rows": [line]})
    told = dict(zip(cells(head), cells(only), strict=True))
    assert (told["images/s"], told["difference"], told["batch"]) == ("32,000", "1.2e-03", "64")
    assert (told["provider"], told["CUDA graph"]) == (("cpu", "no") if gpu is None else ("cuda", "yes"))
    assert (table_speed_gpu.NO_GPU in notes) == (gpu is None)
    assert f"2 cores, {gpu or 'no GPU'};" in notes[-1]
    assert table_speed_gpu.everything({"rows": []}) == []
