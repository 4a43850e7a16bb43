"""Set a bundle's threshold anew on other clean images: the same graph, weights and all, as a new version beside it.

When the camera or the season changes, honest scores move, and with them the share of false alarms. What has to be
known is the exported graph and honest images of today; the checkpoint that it was made from plays no part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from penstock.bundle import FLAG, INPUTS_FILE, Bundle, Calibration, newest_bundle
from penstock.bundle_writing import write_next_version
from penstock.detect.recipe import Recipe
from penstock.errors import UnsupportedError
from penstock.export.calibrate import calibrated_again, set_thresholds
from penstock.export.clean_images import clean_images
from penstock.export.engine_errors import check_graph
from penstock.export.runtime import BATCH, open_graph
from penstock.export.verify.parity import verify_flags, verify_unchanged

CALIBRATION_KEY = "penstock.calibration"  # of the ONNX file's metadata

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RecalibrateOptions:
    """What to calibrate anew, and how.

    Attributes:
        bundle: a version folder, or a model's folder, of which the newest version is taken.
        data: see `penstock.export.clean_images.clean_images`.
        fpr: promised false-positive rate; ``None``: what the bundle promises now.
        per_class: set a threshold for each predicted class.
    """

    bundle: Path
    data: str | None = None
    fpr: float | None = None
    per_class: bool = False


def recalibrate(options: RecalibrateOptions, say: Say = lambda _: None) -> Bundle:
    """Write a new version of a bundle whose flags follow from a new calibration.

    Args:
        options: what and how.
        say: told what is going on, in short lines.

    Raises:
        NotFoundError: there is no bundle, or there are no images.
        UnsupportedError: the bundle has no detector.
        InvalidArgumentError: the images are not for this model, or too few for the rate.
        BundleError: the bundle is damaged.
        VerificationError: the graph's flags are not in the form that we export, or it broke; nothing is written then.
    """
    old = newest_bundle(options.bundle)
    before = old.manifest.calibration
    if before is None:
        raise UnsupportedError(
            f"{old.folder} has no detector, so it has no threshold: export it with flags first"
        )
    if not before.ranked_by and Recipe.parse(before.detector).ranks:  # an earlier schema did not say
        before = replace(before, ranked_by=before.data)
    images, name = clean_images(old.manifest, options.data)
    if name == before.ranked_by:
        images = images[~Recipe.parse(before.detector).ranking(len(images))]
    say(f"scoring {len(images)} images of {name}")
    got = open_graph(old.model_file, single=old.manifest.single).run(images)
    calibration = calibrated_again(
        before,
        got,
        old.manifest.class_names,
        fpr=before.target_fpr if options.fpr is None else options.fpr,
        per_class=options.per_class,
        data=name,
    )
    say(f"of these images, {got[FLAG].mean():.2%} were flagged before")
    content = _with_calibration(old.model_file, calibration)
    checked = open_graph(content, single=old.manifest.single).run(images[:BATCH])
    verify_unchanged(got, checked)
    verify_flags(checked, calibration)
    manifest = replace(
        old.manifest, calibration=calibration, model_sha256=hashlib.sha256(content).hexdigest()
    )
    # What it was made from is the same still: a plan that runs again is to leave the new threshold alone.
    inputs = [INPUTS_FILE] if (old.folder / INPUTS_FILE).is_file() else []
    also = {file: (old.folder / file).read_bytes() for file in (*manifest.files, *inputs)}
    return write_next_version(old, manifest, content, also)


def _with_calibration(file: Path, calibration: Calibration) -> bytes:
    """The content of a graph's file with other thresholds, in what it computes and in what it says of itself."""
    model = ir.load(file)
    set_thresholds(model, calibration)
    model.metadata_props[CALIBRATION_KEY] = json.dumps(asdict(calibration))
    content: bytes = ir.serde.serialize_model(model).SerializeToString()
    check_graph(content)
    return content
