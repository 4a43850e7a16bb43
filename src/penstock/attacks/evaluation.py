"""Evaluate a detector as a reviewer who does not believe in it would.

What is measured, on images that neither network nor detector has seen: thresholds from calibration images, false
positives on clean test images, and per attack only the images that were read right and are now misread; those on which
the attack failed are counted apart. Each piece of work is one file in the run folder, written in one step, so that a
killed run goes on where it stopped, and several processes share the work of one folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.attacks.baselines import fit_baselines
from penstock.attacks.classifier import live_bits
from penstock.attacks.evaluation_bench import Bench, attack_file, kept, make_once, told_once, written
from penstock.attacks.evaluation_claim import claim, images_digests, masks_digest
from penstock.attacks.evaluation_config import OWN, EvaluationConfig
from penstock.attacks.evaluation_figures import (
    Arrays,
    any_figures,
    attack_figures,
    clean_figures,
    mean_figures,
)
from penstock.attacks.evaluation_needs import (
    check_libraries,
    check_masks,
    check_rates,
    check_source,
    foreign_images,
)
from penstock.attacks.evaluation_plan import compared_file, pieces, planted_file
from penstock.attacks.evaluation_work import Subject, other_network
from penstock.attacks.metrics import rate_estimate
from penstock.attacks.served import Served, attack_served, check_served, clean_served
from penstock.attacks.supervised_figures import codes_of, supervised_figures
from penstock.data import ImageSet, Splits, load
from penstock.data.splitting import at_most
from penstock.detect import FamilyScore, Recipe
from penstock.detect.tables import tables_to_bytes
from penstock.errors import InvalidArgumentError
from penstock.nn.checkpoint import Checkpoint, load_source
from penstock.nn.detecting import FIT_SEED, fitted_score
from penstock.nn.observing import observed_checkpoint

GUIDES = 2000  # honest images that feature matching may choose from
RESULTS = "detection.json"
Say = Callable[[str], None]
Track = Callable[[list[Path]], Iterable[Path]]


def evaluate_detection(
    source: str,
    config: EvaluationConfig,
    out: Path,
    folder: Path | None = None,
    say: Say = lambda _: None,
    track: Track = lambda plan: plan,
    bundles: Sequence[Served] = (),
) -> dict[str, Any]:
    """Run what is not there yet, and write ``detection.json``.

    Args:
        source: run folder, checkpoint file, or ``zoo:NAME``, with a detector.
        config: what to do.
        out: run folder; one of the same source and configuration goes on.
        folder: of the data set; by default what ``PENSTOCK_DATA`` says.
        say: told what is going on, in short lines.
        track: passes the files of the plan on, and may show how far it is.
        bundles: exports of the source, each judged on the same images.

    Returns:
        what ``detection.json`` holds.

    Raises:
        AlreadyExistsError: the folder holds another evaluation.
        InvalidArgumentError: the source has no detector, does not say its data set, a bundle is not of it, the other
            network is no other one, or there are too few calibration images.
        NotFoundError: images or sub-architectures that the plan needs are not there.
        UnsupportedError: a library that the plan needs is not installed.
    """
    began = written(out / RESULTS)
    check_libraries(config)
    checkpoint, about = load_source(source)
    check_source(checkpoint, about["name"])
    check_served(bundles, about["sha256"], observe=config.observe)
    other, its = other_network(config.other, checkpoint) if config.other else (None, None)
    splits = load(checkpoint.config["data"], folder=folder)
    splits = replace(splits, test=_mixed(splits.test, config.seed))
    foreign = foreign_images(config, checkpoint.input_shape, folder)
    if config.observe:
        say("fitting a detector to what the gates see of the dense network")
        checkpoint = observed_checkpoint(checkpoint, folder)
    recipe = Recipe.parse(config.detector or checkpoint.detector_name)
    ranked = _ranked(splits, recipe, bundles)
    check_rates(config, recipe, ranked)
    check_masks(config, recipe, checkpoint)
    claim(
        out,
        {
            "source": about,
            "other": its,
            "config": asdict(config),
            "bundles": [bundle.about for bundle in bundles],
            "sub_architectures": masks_digest(config.sub_architectures),
            "images": images_digests(splits, foreign),
        },
    )
    say(f"fitting {recipe}")
    bench = _bench(checkpoint, recipe, config, splits, out, folder, bundles)
    claim(out, {"detector": hashlib.sha256(tables_to_bytes(bench.detector)).hexdigest()})
    say("scoring clean images")
    parts = _clean_parts(splits, config, ranked)
    clean = {
        name: kept(out / f"clean-{name}.npz", partial(_judged, bench, part)) for name, part in parts.items()
    }
    subject = replace(_subject(bench, splits, clean, config), foreign=foreign, other=other)
    if "transfer" in config.kinds and other is None:
        say("no other network is named, so that no attack is transferred")
    work = pieces(subject, bench, config, parts, out)
    for file in track(list(work)):
        make_once(file, work[file], wait=False)
    made = {file: kept(file, make) for file, make in work.items()}
    clean = {name: arrays | made.get(compared_file(out, name), {}) for name, arrays in clean.items()}
    founds = {piece: made[attack_file(out, *piece)] for piece in config.plan}

    active = made.get(planted_file(out), {})

    def result() -> dict[str, Any]:
        say("counting")
        return {
            "source": about,
            "config": asdict(config),
            "detector": str(recipe),
        } | _figures(bench, config, clean, subject, founds, active)

    return told_once(out / RESULTS, result, began)


def _mixed(images: ImageSet, seed: int) -> ImageSet:
    """The images in random order: sets may go class by class, and the first so many are attacked."""
    return images.take(np.random.default_rng(seed).permutation(len(images)))


def _ranked(splits: Splits, recipe: Recipe, bundles: Sequence[Served]) -> npt.NDArray[np.bool_]:
    """Which calibration images any scores are ranked by."""
    count = len(splits.calibration)
    recipes = (recipe, *(bundle.recipe for bundle in bundles))
    ranked: npt.NDArray[np.bool_] = np.any([each.ranking(count) for each in recipes], axis=0)
    return ranked


def _bench(
    checkpoint: Checkpoint,
    recipe: Recipe,
    config: EvaluationConfig,
    splits: Splits,
    out: Path,
    folder: Path | None,
    bundles: Sequence[Served],
) -> Bench:
    """All that judges images: the fitted detector, scores to compare it with, which are fitted when asked, exports."""

    def keep(name: str, make: Callable[[], Arrays]) -> Arrays:
        return kept(out / f"fit-{name}.npz", make)

    masks = Path(config.sub_architectures) if config.sub_architectures else None
    ranking = splits.calibration.images[recipe.ranking(len(splits.calibration))]
    # Kept, because another number of threads fits another one, to rounding.
    tables = keep(OWN, lambda: dict(fitted_score(checkpoint, str(recipe), ranking, folder, masks).arrays()))
    honest = partial(_honest, splits, config.fit)
    baselines = partial(fit_baselines, config.baselines, checkpoint.network, honest, keep)
    return Bench(checkpoint, FamilyScore.from_arrays(str(recipe), tables), baselines, bundles)


def _figures(
    bench: Bench,
    config: EvaluationConfig,
    clean: dict[str, Arrays],
    subject: Subject,
    founds: dict[tuple[str, float], Arrays],
    active: Arrays,
) -> dict[str, Any]:
    """Everything that the pieces of work say: of clean images by part, of attacks, and of planted evasions."""
    names, before = (OWN, *config.baselines), subject.before
    codes = codes_of(bench.checkpoint, clean["test"], before, founds, config.images)
    return {
        "planted": {
            piece: {"images": len(got)} | (asdict(rate_estimate(got)) if len(got) else {})
            for piece, got in active.items()
        },
        "live_bits": live_bits(bench.checkpoint.network, subject.victims.floats()),
        "clean": {name: clean_figures(clean, name, config.seed) for name in names},
        "attacks": [
            {"attack": kind, "eps": eps, **attack_figures(found, clean, names, config.seed)}
            for (kind, eps), found in founds.items()
        ],
        "any": any_figures(founds, clean),
        "means": mean_figures(founds, clean, names, config.seed),
        "supervised": supervised_figures(codes, config.supervised, config.seed),
        "bundles": [
            bundle.about
            | {
                "clean": clean_served(bundle, clean, place, config.seed),
                "attacks": [
                    {"attack": kind, "eps": eps, **attack_served(found, before, clean, place, config.seed)}
                    for (kind, eps), found in founds.items()
                ],
            }
            for place, bundle in enumerate(bench.served)
        ],
    }


def _honest(splits: Splits, fit: int) -> npt.NDArray[np.uint8]:
    """Training images for baselines, chosen as those are that the path detector is fitted on."""
    return splits.train.take(at_most(splits.train.labels, fit, FIT_SEED)).images


def _judged(bench: Bench, part: ImageSet) -> Arrays:
    return bench.judge_alone(part.floats())


def _clean_parts(
    splits: Splits, config: EvaluationConfig, ranked: npt.NDArray[np.bool_]
) -> dict[str, ImageSet]:
    """Calibration images that thresholds are set on, without those that any scores are ranked by; and test images."""
    count = min(config.clean or len(splits.test), len(splits.test))
    return {
        "calibration": splits.calibration.take(~ranked),
        "test": splits.test.take(np.arange(count)),
    }


def _subject(bench: Bench, splits: Splits, clean: dict[str, Arrays], config: EvaluationConfig) -> Subject:
    images = splits.test.take(np.arange(min(config.images, len(splits.test))))
    right = np.flatnonzero(clean["test"]["predicted"][: len(images)] == images.labels)
    if not len(right):
        raise InvalidArgumentError(
            f"none of the {len(images)} images is read right, so that there is nothing to attack: raise images, or "
            "train the network longer"
        )
    return Subject(
        checkpoint=bench.checkpoint,
        detector=bench.detector,
        calibration=clean["calibration"][OWN],
        victims=images.take(right),
        before={name: array[right] for name, array in clean["test"].items()},
        guides=splits.train.take(at_most(splits.train.labels, GUIDES, config.seed)),
    )
