"""Put the page together: observe a source, draw what it holds, write one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.attacks.evaluation import RESULTS
from penstock.files import write_atomic
from penstock.learn.runs import budget_of
from penstock.nn.cascade import RAN, Cascade
from penstock.nn.checkpoint import ZOO_PREFIX
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE, load_sub_architectures
from penstock.report.detection_page import detection_page
from penstock.report.disentangled_page import disentangled_page
from penstock.report.evaluation import evaluate
from penstock.report.heading import heading
from penstock.report.logs import Curves, read_curves
from penstock.report.observation import Observation, Say, observe
from penstock.report.page import Section, page
from penstock.report.routes import read_prototypes
from penstock.report.section_classes import classes_section
from penstock.report.section_combinations import combinations_section
from penstock.report.section_layers import layers_section
from penstock.report.section_prototypes import prototypes_section
from penstock.report.section_training import training_section


def write_report(source: str, out: Path, folder: Path | None = None, say: Say = lambda _: None) -> None:
    """Write the page about a source.

    Args:
        source: run folder, also of a disentanglement or of an evaluation of a detector, checkpoint file, or
            ``zoo:NAME``; only a run folder has training curves.
        out: HTML file to write.
        folder: of the data set; by default what ``PENSTOCK_DATA`` says.
        say: told what is going on, in short lines.

    Raises:
        NotFoundError: the source or its data set is not there.
        InvalidArgumentError: a log in the run folder is damaged.
    """
    if (Path(source) / SUB_ARCHITECTURES_FILE).is_file():
        say("drawing")
        found = load_sub_architectures(Path(source) / SUB_ARCHITECTURES_FILE)
        write_atomic(out, disentangled_page(Path(source).resolve().name, found))
        return
    if (Path(source) / RESULTS).is_file():
        say("drawing")
        write_atomic(out, detection_page(Path(source)))
        return
    curves = _curves(source)
    seen = observe(source, folder, say)
    say("drawing")
    write_atomic(out, report(seen, curves))


def report(seen: Observation, curves: list[Curves]) -> str:
    """The page as text.

    Args:
        seen: what the network did.
        curves: of its trainings; may be empty.
    """
    return page(f"{seen.name} - Penstock", heading(seen, evaluate(seen)), _sections(seen, curves))


def _sections(seen: Observation, curves: list[Curves]) -> list[Section]:
    sections = [
        layers_section(seen.paths, seen.dependence),
        classes_section(seen.paths.layout, seen.dependence.class_rates, seen.images.class_names),
        combinations_section(seen),
    ]
    return [
        *sections,
        *_prototypes_sections(seen),
        training_section(curves, budget_of(seen.checkpoint.config)),
    ]


def _prototypes_sections(seen: Observation) -> Iterator[Section]:
    """Of a network with prototypes, or of each member of a cascade that has some."""
    network = seen.checkpoint.network
    if isinstance(network, ConsolidatedNetwork):
        yield prototypes_section(seen, network.layout, read_prototypes(network, seen.images.images))
    if isinstance(network, Cascade):
        ran = seen.paths.bits[:, seen.paths.layout.of(RAN)][:, 0] == 1
        for name, member, own in (("first", network.first, seen), ("second", network.second, seen.take(ran))):
            if isinstance(member, ConsolidatedNetwork) and len(own.images):
                found = read_prototypes(member, own.images.images)
                yield prototypes_section(own, member.layout, found, member=name)


def _curves(source: str) -> list[Curves]:
    """A run's logs; a checkpoint file or a zoo entry has none."""
    if source.startswith(ZOO_PREFIX) or not Path(source).is_dir():
        return []
    return read_curves(Path(source))
