"""Bundles under the same attacks: images are changed to fool the PyTorch network, and judged by the exported graph.

Precision and lowering change answers and scores, so a bundle has figures of its own: an attack counts where this graph
read the image right and reads it wrong now, thresholds are those of its own scores, and its flags are counted as it
serves them. What is asked of it goes under ``served0.predicted`` and so on beside the other arrays of a piece of work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.attacks.classifier import Images
from penstock.attacks.evaluation_config import ADAPTIVE, ATTACKS, OWN
from penstock.attacks.evaluation_figures import Arrays, attack_figures, clean_figures
from penstock.attacks.metrics import rate_estimate
from penstock.detect import Recipe, false_positive_interval
from penstock.errors import InvalidArgumentError
from penstock.manifest import ACTIVE_MACS, FLAG, LOGITS, SCORE, Manifest

OBSERVED = "observed"  # the lowering of a dense network with gates that look on
NOISE = "noise-"


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle that answers.

    Attributes:
        name: how results call it.
        manifest: what it says of itself.
        run: its outputs by name for images ``[N, C, H, W]`` in 0..1.
    """

    name: str
    manifest: Manifest
    run: Callable[[Images], Mapping[str, npt.NDArray[Any]]]

    def judge(self, images: Images, place: int) -> Arrays:
        """What it says of images, under names that begin with its place among the bundles."""
        got = self.run(images)
        return {
            f"served{place}.predicted": got[LOGITS].argmax(axis=1),
            f"served{place}.{OWN}": got[SCORE][:, 0].astype(np.float64),
            f"served{place}.flag": got[FLAG][:, 0],
            f"served{place}.active_macs": got[ACTIVE_MACS][:, 0],
        }

    @property
    def recipe(self) -> Recipe:
        """Its detector's."""
        assert self.manifest.calibration is not None
        return Recipe.parse(self.manifest.calibration.detector)

    @property
    def about(self) -> dict[str, Any]:
        """What results say of it."""
        manifest = self.manifest
        assert manifest.calibration is not None
        return {
            "name": self.name,
            "sha256": manifest.model_sha256,
            "lowering": manifest.lowering,
            "precision": manifest.precision,
            "detector": manifest.calibration.detector,
            "fpr": manifest.calibration.target_fpr,
            "calibration_images": manifest.calibration.images,
        }


def check_served(bundles: Sequence[Served], source_sha256: str, *, observe: bool) -> None:
    """Refuse bundles that are not of the network that is attacked.

    Raises:
        InvalidArgumentError: says which, and what to do.
    """
    for bundle in bundles:
        manifest = bundle.manifest
        if manifest.source.get("sha256") != source_sha256:
            raise InvalidArgumentError(
                f"bundle {bundle.name} was made from {manifest.source.get('name')!r}, another checkpoint than the one "
                "that is attacked: export that one"
            )
        if manifest.calibration is None:
            raise InvalidArgumentError(f"bundle {bundle.name} never flags: export it with a detector")
        if (manifest.lowering == OBSERVED) != observe:
            raise InvalidArgumentError(
                f"bundle {bundle.name} is {manifest.lowering}, and observe is {str(observe).lower()}: a dense network "
                "with observers (observe = true) and one with gates are two networks; evaluate them apart"
            )


def served_view(found: Arrays, place: int) -> Arrays:
    """The arrays of a piece of work as if the bundle alone had judged, under the names that figures look for."""
    prefix = f"served{place}."
    own = {name.removeprefix(prefix): found[name] for name in found if name.startswith(prefix)}
    noise = {"noise": own.pop(f"{NOISE}{OWN}")} if f"{NOISE}{OWN}" in own else {}
    return {name: found[name] for name in ("labels", "l2") if name in found} | own | noise


def clean_served(bundle: Served, clean: dict[str, Arrays], place: int, seed: int) -> dict[str, Any]:
    """False positives: at the usual rates, and as the bundle flags."""
    views = {name: served_view(found, place) for name, found in clean.items()}
    flags, about = views["test"]["flag"], bundle.about
    interval = false_positive_interval(len(flags), about["calibration_images"], about["fpr"])
    return clean_figures(views, OWN, seed) | {
        "as_served": {"fpr": about["fpr"], "interval_99": interval, **asdict(rate_estimate(flags))}
    }


def attack_served(
    found: Arrays, before: Arrays, clean: dict[str, Arrays], place: int, seed: int
) -> dict[str, Any]:
    """Figures of one attack or control on one bundle.

    Args:
        found: what the piece of work left.
        before: what judges said of all victims, of which the first were changed, as they were.
        clean: what they said of clean images.
        place: of the bundle.
        seed: of intervals.
    """
    view = served_view(found, place)
    if (view["labels"] >= 0).all():
        read = served_view(before, place)["predicted"][: len(view["labels"])] == view["labels"]
        view = {name: array[read] if len(array) == len(read) else array for name, array in view.items()}
    views = {name: served_view(part, place) for name, part in clean.items()}
    figures = attack_figures(view, views, (OWN,), seed)
    turned = (view["predicted"] != view["labels"]) & (view["labels"] >= 0)
    flags = view["flag"]
    figures["as_served"] = {
        "turned": _rate(flags[turned]),
        "failed": _rate(flags[~turned]),
        "shown": _rate(flags),
        "evasion": _rate(turned & ~flags),
        "noise": _rate(view[f"{NOISE}flag"][turned]) if f"{NOISE}flag" in view else None,
    }
    times = {when: found.get(f"served{place}.ms_{when}") for when in ("before", "after")}
    figures["latency_ms"] = {when: float(np.median(ms)) for when, ms in times.items() if ms is not None}
    return figures


def rows_as_served(
    bundle: Mapping[str, Any], detector: str
) -> Iterator[tuple[Mapping[str, Any], tuple[Mapping[str, float] | None, ...]]]:
    """What a table shows of a bundle in an evaluation's results: attacks, and what is flagged of them.

    Adaptive attacks are aimed at one detector, and stand only where the bundle has that one.

    Args:
        bundle: of ``bundles`` in the results.
        detector: that was attacked.

    Yields:
        the attack or control, and shares with intervals: what is flagged, of images that were turned or, where there is
        nothing to turn, of all; of noise as large; and what evades.
    """
    for attack in bundle["attacks"]:
        misreads = attack["attack"] in ATTACKS
        if attack["attack"] in ADAPTIVE and bundle["detector"] != detector:
            continue
        own = attack["as_served"]
        flagged = own["turned" if misreads else "shown"]
        if flagged is not None:
            yield attack, (flagged, *(own[what] if misreads else None for what in ("noise", "evasion")))


def _rate(flags: npt.NDArray[np.bool_]) -> dict[str, float] | None:
    """Share of flags; none of no images."""
    return asdict(rate_estimate(flags)) if len(flags) else None
