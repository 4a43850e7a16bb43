"""Bundles: what export writes and the service reads.

A bundle is one version folder of a Triton-style model repository:

    <repository>/<name>/config.pbtxt            how to call the model; belongs to all its versions
    <repository>/<name>/labels.txt              class names, one a line
    <repository>/<name>/<version>/model.onnx    the graph, runs in any stock ONNX Runtime
    <repository>/<name>/<version>/bundle.json   the `Manifest`: what the graph is, how checked, its hash
    <repository>/<name>/<version>/detector.npz  the detector's tables, where the graph flags: to explain flags

`penstock.bundle_writing` writes them, `penstock.standing_config` what belongs to all versions; here they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.errors import BundleError, InvalidArgumentError, NotFoundError
from penstock.files import sha256
from penstock.manifest import (
    ACTIVE_MACS,
    FLAG,
    INPUT,
    LOGITS,
    MANIFEST_FILE,
    OUTPUTS,
    PATH,
    SCHEMA,
    SCORE,
    Calibration,
    Manifest,
)
from penstock.model_config import (
    CONFIG_FILE,
    LABELS_FILE,
    MAX_BATCH_PARAMETER,
    Interface,
    config_text,
)

MODEL_FILE = "model.onnx"
DETECTOR_FILE = "detector.npz"
INPUTS_FILE = "inputs.json"  # what a plan made the bundle from
GATE_LOGITS = "gate_logits"  # inside graphs that flag, the tensor [N, P] of which the detector's tables speak


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose hash was checked.

    Attributes:
        folder: the version folder.
        manifest: what it says of itself.
    """

    folder: Path
    manifest: Manifest

    @property
    def model_file(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL_FILE


def read_bundle(folder: Path) -> Bundle:
    """Read a version folder and check that its graph is the one that was written.

    Raises:
        NotFoundError: there is no such folder.
        BundleError: a file is missing, cannot be read, or the graph's hash differs from the manifest's.
    """
    if not folder.is_dir():
        raise NotFoundError(f"no bundle at {folder}")
    for name in (MANIFEST_FILE, MODEL_FILE):
        if not (folder / name).is_file():
            raise BundleError(f"{folder} has no {name}: the bundle is incomplete, export again")
    try:
        text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{folder / MANIFEST_FILE} cannot be read ({error}): export again") from error
    manifest = Manifest.from_json(text)
    for name, expected in {MODEL_FILE: manifest.model_sha256, **manifest.files}.items():
        _check_hash(folder / name, expected)
    return Bundle(folder, manifest)


def newest_bundle(folder: Path) -> Bundle:
    """A version folder as it is, of a model's folder the newest version.

    Raises:
        NotFoundError: there is no bundle.
        BundleError: it is damaged.
    """
    numbers = versions(folder)
    if not folder.is_dir():
        raise NotFoundError(
            f"no bundle at {folder}: name a version folder of a model repository, or a model's folder"
        )
    return read_bundle(folder / str(numbers[-1]) if numbers else folder)


def _check_hash(file: Path, expected: str) -> None:
    if not file.is_file():
        raise BundleError(f"{file.parent} has no {file.name}: the bundle is incomplete, export again")
    found = sha256(file)
    if found != expected:
        raise BundleError(
            f"{file} is damaged: its sha256 is {found[:12]}..., "
            f"{MANIFEST_FILE} says {expected[:12]}...: export again"
        )


def versions(home: Path) -> list[int]:
    """Version numbers of a model, ascending: folders named by a positive integer without leading zeros."""
    return [number for number in numbers_taken(home) if (home / str(number)).is_dir()]


def numbers_taken(home: Path) -> list[int]:
    """Version numbers that are taken, ascending: by versions, or by files that have no business there."""
    if not home.is_dir():
        return []
    names = (entry.name for entry in home.iterdir())
    return sorted(
        int(name) for name in names if name.isascii() and name.isdigit() and not name.startswith("0")
    )


def check_name(name: str) -> None:
    """Refuse a model name that could not stand as a folder and in a URL.

    Raises:
        InvalidArgumentError: names the offending name.
    """
    allowed = name.isascii() and all(c.isalnum() or c in "-_." for c in name)
    if not allowed or not name or name.startswith("."):
        raise InvalidArgumentError(
            f"model name {name!r}: use letters, digits, '-', '_' and '.', and do not begin with '.'"
        )


__all__ = [
    "ACTIVE_MACS",
    "CONFIG_FILE",
    "DETECTOR_FILE",
    "FLAG",
    "GATE_LOGITS",
    "INPUT",
    "LABELS_FILE",
    "LOGITS",
    "MANIFEST_FILE",
    "MAX_BATCH_PARAMETER",
    "MODEL_FILE",
    "OUTPUTS",
    "PATH",
    "SCHEMA",
    "SCORE",
    "Bundle",
    "Calibration",
    "Interface",
    "Manifest",
    "check_name",
    "config_text",
    "read_bundle",
    "versions",
]
