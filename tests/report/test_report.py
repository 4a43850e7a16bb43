"""The page of a real run: one well-formed file that needs nothing beside it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.cli import main
from penstock.data import Splits, digits
from penstock.learn.cascade import cascade
from penstock.nn.cascade import RAN
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint
from penstock.nn.prototypes import PrototypeConfig, attach_prototypes, set_prototypes
from penstock.nn.surgery import GatedNetwork
from penstock.report.commands import command_of
from penstock.report.logs import read_curves
from penstock.report.observation import observe
from penstock.report.report import report
from penstock.report.section_combinations import most_telling_layer

VOID = {"img", "meta", "br", "path", "use", "image"}


class Reader(HTMLParser):
    """Checks that elements close in the order in which they open, and collects what is in them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.unnamed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id") is not None:
            self.ids.append(str(values["id"]))
        self.addresses += [
            str(values[name]) for name in ("src", "href", "xlink:href", "action") if name in values
        ]
        if tag == "img" and not values.get("alt"):
            self.unnamed.append(tag)
        if tag == "svg" and not values.get("aria-label"):
            self.unnamed.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def page(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "new" / "report.html"
    assert main(["report", str(tiny_run), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def test_it_is_well_formed_and_every_name_is_there_once(page: str) -> None:
    reader = read(page)
    assert page.startswith("<!DOCTYPE html>")
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.unnamed == []


def test_it_needs_nothing_from_elsewhere(page: str) -> None:
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "@import" not in page
    reader = read(page)
    outside = [where for where in reader.addresses if not where.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    anchors = [where.removeprefix("#") for where in reader.addresses if where.startswith("#")]
    assert set(anchors) <= set(reader.ids)
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#{name}" for name in reader.ids}


def test_it_holds_every_section_and_the_figures(page: str, tiny_run: Path) -> None:
    reader = read(page)
    for key in ("layers", "classes", "combinations", "training"):
        assert key in reader.ids
        assert f"#{key}" in reader.addresses
    figures = load_checkpoint(tiny_run / CHECKPOINT_FILE).figures
    words = " ".join(reader.words)
    for name in ("decoupled_accuracy", "dense_accuracy"):
        assert f"{figures[name]:.2%}" in words
    assert f"{figures['mac_fraction']:.1%}" in words
    assert f"penstock decouple --config FILE --out {tiny_run.name}" in words
    assert "Training: dense" in words
    assert "Training: decouple" in words


def test_pictures_take_their_colours_from_the_page(page: str) -> None:
    """A placeholder that was not replaced would be a dark colour of its own on any page."""
    assert "#010a" not in page
    assert "#010b" not in page
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", page))
    assert {"--ink", "--muted", "--series-1"} <= used
    assert used <= set(re.findall(r"(--[a-z0-9-]+):", page))


@pytest.fixture(scope="module")
def bare_page(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a checkpoint file, without its run, on a data set one of whose classes is named like an element."""
    real = digits.load_digits

    def renamed(seed: int) -> Splits:
        splits = real(seed)
        names = ("<b>zero</b>", *splits.class_names[1:])
        parts = (splits.train, splits.validation, splits.calibration, splits.test)
        return Splits(*(replace(part, class_names=names) for part in parts))

    out = tmp_path_factory.mktemp("bare") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.data.loading.load_digits", renamed)
        assert main(["report", str(tiny_run / CHECKPOINT_FILE), "--out", str(out)]) == 0
    return out.read_text(encoding="utf-8")


def test_names_of_classes_are_escaped(bare_page: str) -> None:
    read(bare_page)
    assert "<b>zero" not in bare_page
    assert "&lt;b&gt;zero&lt;/b&gt;" in bare_page


def test_without_logs_the_curves_are_left_out(bare_page: str) -> None:
    assert "No training logs lie beside this checkpoint" in bare_page
    assert "training" in read(bare_page).ids


def test_prototypes_of_a_consolidated_network_are_shown(tiny_run: Path) -> None:
    torch.manual_seed(0)
    seen = observe(str(tiny_run))
    assert isinstance(seen.checkpoint.network, GatedNetwork)
    layers = seen.checkpoint.network.layout.layers
    config = PrototypeConfig(count=3, stages=(1, len(layers) - 1))
    routed = attach_prototypes(seen.checkpoint.network, config).eval()
    draw = np.random.default_rng(0)
    widths = (layers[0].filters, sum(layer.filters for layer in layers[1:]))
    set_prototypes(routed, [torch.from_numpy(draw.integers(0, 2, (3, width))).float() for width in widths])
    about = {"source": {"name": "tiny"}, "count": 3, "seed": 5}
    checkpoint = replace(seen.checkpoint, network=routed, config=about)
    page = report(replace(seen, checkpoint=checkpoint), [])
    assert "prototypes" in read(page).ids
    assert re.search(r"Stage 2: \d of 3 prototypes are used", page)
    counts = [int(count) for count in re.findall(rf"(\d+) of {len(seen.images)} images, \d+% of the", page)]
    assert sum(counts) == 2 * len(seen.images), "every image takes one of each stage's"
    assert f"penstock consolidate tiny --prototypes 3 --config FILE --out {tiny_run.name}" in page


@pytest.fixture(scope="module")
def cascaded(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cascaded"
    cascade(str(tiny_run), None, folder, budget=0.9)
    return folder


def test_a_cascades_page_tells_its_one_decision_and_the_second_networks_prototypes(cascaded: Path) -> None:
    seen = observe(str(cascaded))
    page = report(seen, [])
    reader = read(page)
    words = " ".join(reader.words)
    ran = seen.paths.bits[:, seen.paths.layout.of(RAN)][:, 0] == 1
    assert 0 < ran.mean() < 1
    assert f"images for the second network {ran.mean():.1%}" in " ".join(words.split())
    assert "input-dependent filters" not in words
    command = "penstock cascade tiny --budget 0.9 --blend 0.1 --fpr 0.05 --out cascaded"
    assert command in words
    # Its first network has gates, and no prototypes.
    assert "prototypes-second" in reader.ids
    assert "prototypes-first" not in reader.ids
    assert f"The second network of the cascade ran for {ran.sum():,} images." in words
    # Filters that repeat the one decision are no combinations.
    assert seen.paths.layout.names[most_telling_layer(seen)].startswith("first.")


def test_the_command_that_made_a_run_is_told() -> None:
    source = {"name": "some", "sha256": "0"}
    told = {
        "decouple --config FILE": {"budget": 0.5, "decouple": {}},
        "consolidate some --prototypes 4 --budget 0.3 --config FILE": {
            "source": source,
            "count": 4,
            "budget": 0.3,
        },
        "cascade some other --budget 0.5 --blend 0 --fpr 0.1": {
            "first": source,
            "second": {"name": "other"},
            "budget": 0.5,
            "blend": 0,
            "fpr": 0.1,
        },
        "observe some --dense --config FILE": {"source": source, "dense": True, "observers": {}},
        "observe some --config FILE": {"source": source, "dense": False, "observers": {}},
    }
    for command, config in told.items():
        assert command_of(config, "run") == f"penstock {command} --out run"


def test_a_budget_that_nothing_kept_to_is_not_drawn(tiny_run: Path) -> None:
    seen = observe(str(tiny_run))
    curves = read_curves(tiny_run)
    assert "budget, 60%" in report(seen, curves)
    config = dict(seen.checkpoint.config) | {"budget_weight": 0.0}
    unasked = replace(seen, checkpoint=replace(seen.checkpoint, config=config))
    assert "budget, 60%" not in report(unasked, curves)


def test_missing_images_are_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PENSTOCK_DATA", raising=False)
    assert main(["report", "zoo:resnet20-cifar10", "--out", str(tmp_path / "page.html")]) == 1
    assert "or name it with --data" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
