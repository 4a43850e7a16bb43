"""Prototypes of a consolidated network: how often each runs, for which classes and images, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.errors import InvalidArgumentError
from penstock.paths import Bits, Floats, PathLayout
from penstock.report.drawing import SERIES, Drawing, heat, heat_scale, name_classes, to_svg
from penstock.report.markup import NOTHING, Html, element, figure, join, paragraph, text
from penstock.report.observation import Observation
from penstock.report.page import Section
from penstock.report.section_combinations import spread
from penstock.report.thumbnails import thumbnails

IMAGES = 12  # shown of each prototype
SHOWN = 8  # prototypes of a stage whose images are shown


@dataclass(frozen=True, eq=False)
class Prototypes:
    """The prototypes of all stages and which of them ran.

    Attributes:
        bits: ``[K, P_s]`` of each stage, 0 or 1; all stages together are the whole path.
        chosen: ``[N, stages]`` int64, the prototype of each stage that ran for each image.
    """

    bits: tuple[Bits, ...]
    chosen: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.chosen.ndim != 2 or self.chosen.shape[1] != len(self.bits):
            raise InvalidArgumentError(
                f"choices have shape {self.chosen.shape}; {len(self.bits)} stages need [N, {len(self.bits)}]"
            )
        for stage, bits in enumerate(self.bits):
            own = self.chosen[:, stage]
            if len(own) and not 0 <= own.min() <= own.max() < len(bits):
                raise InvalidArgumentError(
                    f"stage {stage} has {len(bits)} prototypes; the choices run from {own.min()} to {own.max()}"
                )


def prototypes_section(
    seen: Observation, layout: PathLayout, prototypes: Prototypes, member: str = ""
) -> Section:
    """Use, classes, work and images of every stage's prototypes.

    Args:
        seen: the images that the prototypes ran for.
        layout: of the network that has them.
        prototypes: what its routers picked.
        member: which network of a cascade it is, its place in words; empty if it stands alone.
    """
    work = stage_work(layout, prototypes.bits)
    names = seen.images.class_names
    parts = []
    for stage, bits in enumerate(prototypes.bits):
        chosen = prototypes.chosen[:, stage]
        by_class = use_by_class(chosen, seen.images.labels, len(bits), len(names))
        parts.append(element("h3", text(f"Stage {stage + 1}: {_used(chosen, len(bits))}")))
        parts.append(
            figure(
                prototypes_picture(stage, chosen, by_class, work[stage], names),
                "Left: share of all images. Middle: share of each class's images. Right: work of the stage's gated "
                "filters, all of them open being 100%.",
            )
        )
        parts.append(_cards(seen, chosen, work[stage]))
    lead = "A router at the entrance of each stage picks one of a few fixed paths through it, its prototypes."
    if not member:
        return Section("prototypes", "Prototypes", lead, join(parts))
    lead = f"{lead} The {member} network of the cascade ran for {len(seen.images):,} images."
    return Section(f"prototypes-{member}", f"Prototypes of the {member} network", lead, join(parts))


def use_by_class(
    chosen: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], count: int, classes: int
) -> Floats:
    """``[classes, K]`` share of each class's images that use each prototype; NaN for a class without images."""
    counts = np.zeros((classes, count))
    np.add.at(counts, (labels, chosen), 1)
    images = counts.sum(axis=1, keepdims=True)
    shares: Floats = np.where(images > 0, counts / np.maximum(images, 1), np.nan)
    return shares


def stage_work(layout: PathLayout, bits: Sequence[Bits]) -> list[Floats]:
    """What each prototype costs beside its stage with all filters open, other stages being open.

    Args:
        layout: of the whole path.
        bits: ``[K, P_s]`` of each stage, in order.

    Returns:
        ``[K]`` of each stage: 0 with all its filters closed, 1 with all open.

    Raises:
        InvalidArgumentError: the stages do not make up the path.
    """
    if sum(own.shape[1] for own in bits) != layout.bits:
        raise InvalidArgumentError(
            f"stages of {[own.shape[1] for own in bits]} filters do not make up a path of {layout.bits}"
        )
    work, start = [], 0
    everything = float(layout.active_macs(np.ones((1, layout.bits)))[0])
    for own in bits:
        paths = np.ones((len(own) + 1, layout.bits))
        paths[:-1, start : start + own.shape[1]] = own
        paths[-1, start : start + own.shape[1]] = 0
        *macs, nothing = layout.active_macs(paths)
        work.append((np.array(macs) - nothing) / max(everything - nothing, 1e-12))
        start += own.shape[1]
    return work


def prototypes_picture(
    stage: int, chosen: npt.NDArray[np.int64], by_class: Floats, work: Floats, class_names: Sequence[str]
) -> Html:
    """Bars of use, heat map of classes, bars of work; one row a prototype."""
    count = len(work)
    use = np.bincount(chosen, minlength=count) / max(1, len(chosen))
    places = range(count)
    with Drawing(1.5 + 0.24 * max(count, 4)) as drawing:
        grid = drawing.add_gridspec(1, 4, width_ratios=(6, 14, 0.6, 6))
        left, middle = drawing.add_subplot(grid[0, 0]), drawing.add_subplot(grid[0, 1])
        right = drawing.add_subplot(grid[0, 3])
        for axes, values, label, colour in (
            (left, use, "images", SERIES[0]),
            (right, work, "work of the stage", SERIES[1]),
        ):
            axes.barh(places, values, color=colour, height=0.7)
            axes.grid(True, axis="x")
            axes.grid(False, axis="y")
            axes.set_xlim(0, max(1e-3, 1.05 * float(values.max())))
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
            axes.xaxis.get_major_locator().set_params(nbins=4)
            axes.set_xlabel(label)
            axes.set_ylim(count - 0.5, -0.5)
            axes.set_yticks(places, [str(place) for place in places])
        left.set_ylabel("prototype")
        heat(middle, by_class.T, 0, 1)
        middle.set_yticks(places, [])
        name_classes(middle, class_names)
        heat_scale(drawing.add_subplot(grid[0, 2]), 0, 1, "share of the class")
        favourite = int(use.argmax())
        return to_svg(
            drawing,
            f"Stage {stage + 1}: how often each of {count} prototypes runs, for which classes, and its work. Prototype "
            f"{favourite} runs most often, for {use[favourite]:.0%} of the images.",
        )


def _used(chosen: npt.NDArray[np.int64], count: int) -> str:
    """How much of a choice there was."""
    if count == 1:
        return "static, one prototype for all images"
    return f"{len(np.unique(chosen))} of {count} prototypes are used"


def _cards(seen: Observation, chosen: npt.NDArray[np.int64], work: Floats) -> Html:
    counts = np.bincount(chosen, minlength=len(work))
    order = [int(place) for place in np.argsort(-counts, kind="stable") if counts[place]]
    cards = (_card(seen, place, np.flatnonzero(chosen == place), work[place]) for place in order[:SHOWN])
    rest = len(order) - SHOWN
    more = paragraph(f"{rest} more are used less often.") if rest > 0 else NOTHING
    return join((element("div", *cards, class_="grid"), more))


def _card(seen: Observation, place: int, users: npt.NDArray[np.intp], work: float) -> Html:
    labels = np.bincount(seen.images.labels[users], minlength=len(seen.images.class_names))
    common = [int(label) for label in np.argsort(-labels, kind="stable")[:3] if labels[label]]
    mostly = ", ".join(
        f"{seen.images.class_names[label]} ({labels[label] / len(users):.0%})" for label in common
    )
    return element(
        "article",
        element("h3", text(f"Prototype {place}")),
        paragraph(f"{len(users):,} of {len(seen.images):,} images, {work:.0%} of the stage's work; {mostly}"),
        thumbnails(seen, spread(users, IMAGES)),
        class_="card",
    )
