"""Score everything that a plan asks for."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from penstock.service.scoring.images import found_images
from penstock.service.scoring.places import Here, OnRay, Place
from penstock.service.scoring.plan import Score, read_scores

PIECE = 128
"""Files in one task."""


def run_scores(
    plan: Path, say: Callable[[str], None], *, repository: Path | None = None, ray: str | None = None
) -> int:
    """Score every folder of a plan.

    Args:
        plan: TOML file.
        say: is told what became of each folder.
        repository: counts instead of what the plan says.
        ray: address of a cluster to work on; by default this process works.

    Returns:
        Exit code: 0 if all images were scored, 1 if some files were none.

    Raises:
        PenstockError: the plan is wrong, or a model or folder is missing.
    """
    scores = read_scores(plan, repository)
    place: Place = Here() if ray is None else OnRay(ray)
    spoilt = 0
    for score in scores:
        counts = score_folder(score, place)
        spoilt += counts["error"]
        say(
            f"{score.images}: {counts['files']} files, {counts['flagged']} flagged, "
            f"{counts['error']} unreadable: {score.out}"
        )
    return 1 if spoilt else 0


def score_folder(score: Score, place: Place) -> Counter[str]:
    """Score one folder; its file appears when it is whole.

    Returns:
        Numbers of ``files``, ``flagged`` ones, and those with an ``error``.
    """
    files = found_images(score.images.absolute())
    absolute = Score(
        repository=score.repository.absolute(),  # tasks run in folders of their own
        model=score.model,
        images=score.images.absolute(),
        out=score.out,
        version=score.version,
        batch=score.batch,
    )
    pieces = [(absolute, files[begin : begin + PIECE]) for begin in range(0, len(files), PIECE)]
    counts: Counter[str] = Counter(files=len(files))
    score.out.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=score.out.parent, prefix=f".{score.out.name}.")
    try:
        # Bytes of a file's name that are no UTF-8 are lone surrogates to Python: as \udcff they are JSON still.
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as out:
            for records in place.results(pieces):
                for record in records:
                    counts["error"] += "error" in record
                    counts["flagged"] += bool(record.get("adversarial"))
                    out.write(json.dumps(record, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o644)
        os.replace(name, score.out)
    finally:
        Path(name).unlink(missing_ok=True)
    return counts
