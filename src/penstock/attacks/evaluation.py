"""Evaluate a detector as a reviewer who does not believe in it would.

What is measured, on images that neither network nor detector has seen: thresholds from calibration images, false
positives on clean test images, and per attack only the images that were read right and are now misread; those on which
the attack failed are counted apart. Each piece of work is one file in the run folder, written in one step, so that a
killed run goes on where it stopped, and several processes share the work of one folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from penstock.attacks.baselines import fit_baselines
from penstock.attacks.classifier import Images, live_bits
from penstock.attacks.evaluation_bench import Bench, attack_file, kept, make_once
from penstock.attacks.evaluation_claim import claim, digest
from penstock.attacks.evaluation_config import ADAPTIVE, OWN, EvaluationConfig
from penstock.attacks.evaluation_figures import Arrays, attack_figures, clean_figures, mean_figures
from penstock.attacks.evaluation_work import Subject, active_test, do, other_network
from penstock.attacks.metrics import rate_estimate
from penstock.attacks.served import Served, attack_served, check_served, clean_served
from penstock.attacks.supervised_figures import codes_of, supervised_figures
from penstock.data import ImageSet, Splits, load
from penstock.data.splitting import at_most
from penstock.detect import Recipe
from penstock.errors import InvalidArgumentError
from penstock.files import write_atomic
from penstock.nn.checkpoint import Checkpoint, load_source
from penstock.nn.detecting import FIT_SEED, fitted_score
from penstock.nn.observing import observed_checkpoint

GUIDES = 2000  # honest images that feature matching may choose from
RESULTS = "detection.json"
Say = Callable[[str], None]
Track = Callable[[list[tuple[str, float]]], Iterable[tuple[str, float]]]


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
        track: passes the plan on, and may show how far it is.
        bundles: exports of the source, each judged on the same images.

    Raises:
        AlreadyExistsError: the folder holds another evaluation.
        InvalidArgumentError: the source has no detector, does not say its data set, a bundle is not of it, or the other
            network is no other one.
    """
    checkpoint, about = load_source(source)
    if not checkpoint.detector or "data" not in checkpoint.config:
        raise InvalidArgumentError(
            f"{about['name']} has no detector or no data set: take one that `penstock` trained"
        )
    check_served(bundles, about["sha256"], observe=config.observe)
    other, its = other_network(config.other, checkpoint) if config.other else (None, None)
    splits = load(checkpoint.config["data"], folder=folder)
    claim(
        out,
        {
            "source": about,
            "other": its,
            "config": asdict(config),
            "bundles": [bundle.about for bundle in bundles],
            "images": {part: digest(getattr(splits, part)) for part in ("train", "calibration", "test")},
        },
    )
    if config.observe:
        say("fitting a detector to what the gates see of the dense network")
        checkpoint = observed_checkpoint(checkpoint, folder)
    recipe = Recipe.parse(config.detector or checkpoint.detector_name)
    say(f"fitting {recipe}")
    bench = _bench(checkpoint, recipe, config, splits, out, folder, bundles)
    say("scoring clean images")
    clean = {
        name: kept(out / f"clean-{name}.npz", partial(_judged, bench, part))
        for name, part in _clean_parts(splits, config, recipe, bundles).items()
    }
    subject = replace(_subject(bench, splits, clean, config), other=other)
    active, founds = _attacked(subject, bench, config, out, folder, say, track)
    say("counting")
    result = {
        "source": about,
        "config": asdict(config),
        "detector": str(recipe),
        "planted": {kind: asdict(rate_estimate(got)) | {"images": len(got)} for kind, got in active.items()},
        "live_bits": live_bits(checkpoint.network, subject.victims.floats()),
    } | _figures(bench, config, clean, subject.before, founds)
    write_atomic(out / RESULTS, json.dumps(result, indent=2) + "\n")
    return result


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
    masks = Path(config.sub_architectures) if config.sub_architectures else None
    ranking = splits.calibration.images[recipe.ranking(len(splits.calibration))]
    baselines = partial(
        fit_baselines,
        config.baselines,
        checkpoint.network,
        partial(_honest, splits, config.fit),
        lambda name, make: kept(out / f"fit-{name}.npz", make),
    )
    return Bench(
        checkpoint, fitted_score(checkpoint, str(recipe), ranking, folder, masks), baselines, bundles
    )


def _attacked(
    subject: Subject,
    bench: Bench,
    config: EvaluationConfig,
    out: Path,
    folder: Path | None,
    say: Say,
    track: Track,
) -> tuple[Arrays, dict[tuple[str, float], Arrays]]:
    """What planted evasions and all attacks and controls left, made where it is not there yet."""
    if "transfer" in config.kinds and subject.other is None:
        say("no other network is named, so that no attack is transferred")
    active: Arrays = {}
    if set(ADAPTIVE).intersection(config.kinds):
        say("planting evasions that adaptive attacks must find")
        active = kept(out / "planted.npz", partial(active_test, subject, config))
    work = {
        piece: (attack_file(out, *piece), partial(do, subject, bench, *piece, config, folder))
        for piece in config.plan
    }
    for piece in track(list(work)):
        make_once(*work[piece], wait=False)
    return active, {piece: kept(*work[piece]) for piece in work}


def _figures(
    bench: Bench,
    config: EvaluationConfig,
    clean: dict[str, Arrays],
    before: Arrays,
    founds: dict[tuple[str, float], Arrays],
) -> dict[str, Any]:
    """Everything that the pieces of work say: of clean images by part, of those attacked as they were, of attacks."""
    names = (OWN, *config.baselines)
    codes = codes_of(bench.checkpoint, clean["test"], before, founds, config.images)
    return {
        "clean": {name: clean_figures(clean, name, config.seed) for name in names},
        "attacks": [
            {"attack": kind, "eps": eps, **attack_figures(found, clean, names, config.seed)}
            for (kind, eps), found in founds.items()
        ],
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


def _honest(splits: Splits, fit: int) -> Images:
    """Training images for baselines, chosen as those are that the path detector is fitted on."""
    return splits.train.take(at_most(splits.train.labels, fit, FIT_SEED)).floats()


def _judged(bench: Bench, part: ImageSet) -> Arrays:
    return bench.judge(part.floats())


def _clean_parts(
    splits: Splits, config: EvaluationConfig, recipe: Recipe, bundles: Sequence[Served]
) -> dict[str, ImageSet]:
    """Calibration images that thresholds are set on, without those that any scores are ranked by; and test images."""
    ranked = np.any(
        [each.ranking(len(splits.calibration)) for each in (recipe, *(one.recipe for one in bundles))], axis=0
    )
    count = min(config.clean or len(splits.test), len(splits.test))
    return {
        "calibration": splits.calibration.take(~ranked),
        "test": splits.test.take(np.arange(count)),
    }


def _subject(bench: Bench, splits: Splits, clean: dict[str, Arrays], config: EvaluationConfig) -> Subject:
    images = splits.test.take(np.arange(min(config.images, len(splits.test))))
    right = np.flatnonzero(clean["test"]["predicted"][: len(images)] == images.labels)
    return Subject(
        checkpoint=bench.checkpoint,
        detector=bench.detector,
        calibration=clean["calibration"][OWN],
        victims=images.take(right),
        before={name: array[right] for name, array in clean["test"].items()},
        guides=splits.train.take(at_most(splits.train.labels, GUIDES, config.seed)),
    )
