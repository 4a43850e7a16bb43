"""The top of the page: what was looked at, its figures, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable

from penstock import zoo
from penstock.nn.cascade import RAN, Cascade
from penstock.nn.checkpoint import ZOO_PREFIX
from penstock.report.commands import command_of
from penstock.report.evaluation import Evaluation
from penstock.report.markup import Html, details, element, join, paragraph, table, text
from penstock.report.observation import Observation


def heading(seen: Observation, figures: Evaluation) -> Html:
    """Title, figures as tiles, command and configuration."""
    backbone = seen.checkpoint.backbone
    return join(
        (
            element("h1", text(f"{seen.name}: which filters each image needs")),
            paragraph(
                f"{backbone} on {seen.data}, decoupled: judged on {figures.images:,} test images, by which "
                "nothing was trained, chosen or calibrated.",
                class_="lead",
            ),
            tiles(_figures(seen, figures)),
            element("pre", element("code", text(_command(seen)))),
            details("Configuration", _configuration(seen)),
            details("Accuracy by class", _classes(figures)),
        )
    )


def tiles(figures: Iterable[tuple[str, str, str]]) -> Html:
    """Figures in a row of tiles: what it is, its value, and a note."""
    return element("dl", *(_tile(*figure) for figure in figures), class_="tiles")


def _figures(seen: Observation, f: Evaluation) -> list[tuple[str, str, str]]:
    gained = "gained" if f.loss_points < 0 else "lost"
    shown = [
        (
            "accuracy, decoupled",
            f"{f.decoupled_accuracy:.2%}",
            f"dense {f.dense_accuracy:.2%}: {abs(f.loss_points):.2f} points {gained}",
        ),
        ("share of the dense MACs", f"{f.mac_fraction:.1%}", "mean over images, gates counted"),
        ("filters open", f"{f.density:.1%}", f"of {seen.paths.layout.bits:,} gated ones"),
        _dependence(seen, f),
    ]
    if f.flags is not None:
        shown.append(
            ("honest images flagged", f"{f.flags['fpr']:.1%}", f"{f.flags['fpr_target']:.1%} were promised")
        )
    shown.append(("seed", str(seen.checkpoint.config.get("seed", "unknown")), f"sha256 {seen.sha256[:12]}"))
    return shown


def _dependence(seen: Observation, f: Evaluation) -> tuple[str, str, str]:
    """What a path owes to its image: of a cascade the one decision, else a share of the filters."""
    if isinstance(seen.checkpoint.network, Cascade):
        layout = seen.paths.layout
        ran = seen.paths.bits[:, layout.of(RAN)].mean()
        return "images for the second network", f"{ran:.1%}", "the one decision that depends on the image"
    assert f.varying is not None
    assert f.input_dependent is not None
    note = f"and steady under noise; {f.varying:.1%} vary at all"
    return "input-dependent filters", f"{f.input_dependent:.1%}", note


def _tile(name: str, value: str, note: str) -> Html:
    inside = (element("dd", text(value), class_="value"), element("dd", text(note), class_="note"))
    return element("div", element("dt", text(name)), *inside)


def _command(seen: Observation) -> str:
    if seen.name.startswith(ZOO_PREFIX):
        return zoo.find(seen.name.removeprefix(ZOO_PREFIX)).command
    return command_of(seen.checkpoint.config, seen.name)


def _configuration(seen: Observation) -> Html:
    content = json.dumps(dict(seen.checkpoint.config), indent=2)
    return element("pre", element("code", text(content)))


def _classes(figures: Evaluation) -> Html:
    def share(value: float | None) -> Html:
        return text("-" if value is None else f"{value:.1%}")

    rows = (
        (
            text(of_class.name),
            text(f"{of_class.images:,}"),
            share(of_class.dense_accuracy),
            share(of_class.decoupled_accuracy),
            share(of_class.mac_fraction),
        )
        for of_class in figures.classes
    )
    return table(("class", "images", "dense", "decoupled", "MACs"), rows, "Accuracy and work of each class")
