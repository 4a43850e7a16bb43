"""The page about a finished run of ``penstock detect evaluate``."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.attacks.evaluation import RESULTS
from penstock.attacks.evaluation_bench import attack_file
from penstock.attacks.evaluation_config import CONTROLS, OWN
from penstock.errors import InvalidArgumentError
from penstock.report.heading import tiles
from penstock.report.markup import Html, details, element, join, paragraph, text
from penstock.report.page import page
from penstock.report.section_detection import (
    RATE,
    AttackScores,
    DetectionRun,
    detection_section,
)


def detection_page(folder: Path) -> str:
    """The page as text.

    Args:
        folder: of the run.

    Raises:
        InvalidArgumentError: a file of it is missing or damaged.
    """
    run = read_detection(folder)
    name = folder.resolve().name
    return page(f"{name} - Penstock", _heading(name, run), [detection_section(run)])


def read_detection(folder: Path) -> DetectionRun:
    """A finished evaluation with the scores that its pieces of work left.

    Raises:
        InvalidArgumentError: a file of it is missing or damaged.
    """
    try:
        result = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        clean = {part: _arrays(folder / f"clean-{part}.npz")[OWN] for part in ("calibration", "test")}
        attacks = [_scores(folder, attack) for attack in result["attacks"]]
        _ = result["any"]  # not there in a run of an earlier edition
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidArgumentError(
            f"{folder} is no finished evaluation ({error!r}): run `penstock detect evaluate` again"
        ) from error
    return DetectionRun(result, clean["calibration"], clean["test"], attacks)


def _scores(folder: Path, attack: dict[str, Any]) -> AttackScores:
    kind, eps = attack["attack"], attack["eps"]
    found = _arrays(attack_file(folder, kind, eps))
    counts = np.ones(len(found[OWN]), bool) if kind in CONTROLS else found["predicted"] != found["labels"]
    noise = found["noise"][counts] if "noise" in found else np.zeros(0)
    return AttackScores(kind, eps, found[OWN][counts], noise)


def _arrays(file: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def _heading(name: str, run: DetectionRun) -> Html:
    result = run.result
    source, config = result["source"]["name"], result["config"]
    found = result["clean"][OWN][RATE]
    shown = [("clean images flagged", f"{found['measured']:.1%}", "5% are promised")]
    if result["any"]:
        worst = result["any"][-1]
        evades = worst["evasion"][RATE]["value"]
        by = f"by any attack within {worst['eps']:g}/255, of {worst['attacked']:,} images"
        shown.append(("misread and not flagged", f"{evades:.1%}", by))
    attacked = [attack["attacked"] for attack in result["attacks"] if attack["attack"] not in CONTROLS]
    if attacked:
        shown.append(("images attacked", f"{max(attacked):,}", "that the network reads right"))
    command = f"penstock detect evaluate {source} --config FILE --out {name}"
    return join(
        (
            element("h1", text(f"{name}: what the flags of {source} are worth")),
            paragraph(
                "Nothing is promised about attacks; what an attacker who knows the detector reaches stands beside what "
                "others reach.",
                class_="lead",
            ),
            tiles(shown),
            element("pre", element("code", text(command))),
            details("Configuration", element("pre", element("code", text(json.dumps(config, indent=2))))),
        )
    )
