"""The page about a run of ``penstock disentangle``: what was found, and how well it serves its classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.learn.similarity import layer_similarities
from penstock.nn.sub_architectures import SubArchitectures
from penstock.report.heading import tiles
from penstock.report.markup import Html, details, element, join, paragraph, table, text
from penstock.report.page import page
from penstock.report.section_answers import answers_section
from penstock.report.section_concepts import concepts_section
from penstock.report.section_disentanglement import ClassPaths, HitRates, disentanglement_section


def disentangled_page(name: str, found: SubArchitectures) -> str:
    """The page as text.

    Args:
        name: of the run.
        found: its result, with the figures that it measured.
    """
    sections = [disentanglement_section(_class_paths(found)), answers_section(found), concepts_section(found)]
    return page(f"{name} - Penstock", _heading(name, found), sections)


def _class_paths(found: SubArchitectures) -> ClassPaths:
    return ClassPaths(
        paths=found.paths,
        class_names=found.class_names,
        similarities=layer_similarities(found.layout, found.paths.bits),
        expected=np.array(found.figures["expected_similarity_by_layer"]),
        hit_rates=_hit_rates(found.figures),
    )


def _hit_rates(figures: Mapping[str, Any]) -> HitRates | None:
    """Those at the first mask rate that was asked for."""
    if not figures["hits"]:
        return None
    hits = figures["hits"][0]
    return HitRates(mean=np.array(hits["mean"]), deviation=np.array(hits["deviation"]))


def _heading(name: str, found: SubArchitectures) -> Html:
    figures, tasks = found.figures, found.figures["tasks"]
    config = found.config
    balanced, dense = float(np.mean(tasks["balanced"])), float(np.mean(tasks["dense_balanced"]))
    shown = [
        ("balanced accuracy of a class's own task", f"{balanced:.2%}", f"the whole network: {dense:.2%}"),
        ("share of the dense MACs", f"{np.mean(tasks['mac_share']):.1%}", "mean over the sub-architectures"),
        ("filters kept", f"{np.mean(tasks['density']):.1%}", f"of {found.layout.bits:,}"),
        ("similarity of two classes", f"{figures['similarity']:.2f}", "mean Jaccard index over layers"),
        ("beta", f"{figures['beta']:g}", "weight of the compression"),
        ("seed", str(config.get("seed", "unknown")), f"{tasks['images']:,} images held out"),
    ]
    command = f"penstock disentangle --config FILE --out {name}"
    configuration = element("pre", element("code", text(json.dumps(dict(config), indent=2))))
    return join(
        (
            element("h1", text(f"{name}: what each class needs of the network")),
            paragraph(f"{found.backbone} on {config['data']}, frozen and disentangled.", class_="lead"),
            tiles(shown),
            element("pre", element("code", text(command))),
            details("Configuration", configuration),
            details("Each class's own task", _tasks(found)),
        )
    )


def _tasks(found: SubArchitectures) -> Html:
    tasks = found.figures["tasks"]
    columns = [tasks[key] for key in ("recall", "dense_recall", "precision", "dense_precision", "mac_share")]
    rows = (
        (text(name), *(text(f"{value:.1%}") for value in values))
        for name, *values in zip(found.class_names, *columns, strict=True)
    )
    headings = ("class", "recall", "dense recall", "precision", "dense precision", "MACs")
    return table(headings, rows, "Sub-architectures beside the whole network, on held-out images")
