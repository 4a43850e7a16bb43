"""Bundles: what export writes and the service reads.

A bundle is one version folder of a Triton-style model repository:

    <repository>/<name>/config.pbtxt            how to call the model; belongs to all its versions
    <repository>/<name>/labels.txt              class names, one a line
    <repository>/<name>/<version>/model.onnx    the graph, runs in any stock ONNX Runtime
    <repository>/<name>/<version>/bundle.json   the `Manifest`: what the graph is, how checked, its hash
    <repository>/<name>/<version>/detector.npz  the detector's tables, where the graph flags: to explain flags

The version folder is written beside its place and renamed into it, so a reader sees a whole bundle or none.
The configuration is written before the first version and never changed by a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import BundleError, InvalidArgumentError, NotFoundError
from penstock.files import folder_atomic, sha256, write_atomic
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
from penstock.model_config import BATCHING, CONFIG_FILE, LABELS_FILE, MAX_BATCH_PARAMETER, config_text

MODEL_FILE = "model.onnx"
DETECTOR_FILE = "detector.npz"
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


def write_bundle(
    repository: Path,
    name: str,
    manifest: Manifest,
    model: Path,
    *,
    also: Mapping[str, str | bytes] | None = None,
) -> Bundle:
    """Add a version to a model repository: the whole of it, or nothing.

    Args:
        repository: folder of models; made if it is not there.
        name: model name; letters, digits, ``-``, ``_`` and ``.``.
        manifest: must carry the hash of ``model``.
        model: the ONNX file; it is copied.
        also: further files for the version folder, by name.

    Raises:
        InvalidArgumentError: the name cannot be a model's, or the model's ``config.pbtxt`` says something
            else than this export would.
    """
    check_name(name)
    config = config_text(name, manifest)
    labels = "".join(f"{label}\n" for label in manifest.class_names)
    home = repository / name

    def configure() -> None:
        _write_or_agree(home / CONFIG_FILE, config, config.removesuffix(BATCHING))
        _write_or_agree(home / LABELS_FILE, labels)

    return _write_version(home, manifest, model.read_bytes(), also or {}, configure)


def write_next_version(
    old: Bundle, manifest: Manifest, content: bytes, also: Mapping[str, str | bytes]
) -> Bundle:
    """Add a version to the model that a bundle is one of; the configuration stays, for somebody may have edited it.

    Args:
        old: any version of the model.
        manifest: must carry the hash of ``content``.
        content: of the ONNX file.
        also: further files for the version folder, by name.

    Raises:
        InvalidArgumentError: it would need another configuration than ``old``.
    """
    home = old.folder.resolve().parent
    if config_text(home.name, manifest) != config_text(home.name, old.manifest):
        raise InvalidArgumentError(f"another version of {home.name!r} must have the same inputs and outputs")
    return _write_version(home, manifest, content, also, lambda: None)


def _write_version(
    home: Path,
    manifest: Manifest,
    content: bytes,
    also: Mapping[str, str | bytes],
    configure: Callable[[], None],
) -> Bundle:
    while True:
        version = home / str(max(_numbers(home), default=0) + 1)
        try:
            with folder_atomic(version) as folder:
                (folder / MODEL_FILE).write_bytes(content)
                (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
                for file, text in also.items():
                    (folder / file).write_bytes(text.encode() if isinstance(text, str) else text)
                read_bundle(folder)
                # Last, so that an export that failed leaves no configuration for others to trip over.
                configure()
        except FileExistsError:
            continue  # another export took this number meanwhile
        return read_bundle(version)


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
    return [number for number in _numbers(home) if (home / str(number)).is_dir()]


def _numbers(home: Path) -> list[int]:
    """Numbers that are taken, ascending: by versions, or by files that have no business there."""
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


def _write_or_agree(path: Path, text: str, *older: str) -> None:
    """Write a file of the model's, or see that it says the same, or did once; of two at once one writes."""
    try:
        write_atomic(path, text, replace=False)
    except FileExistsError:
        if path.read_text(encoding="utf-8") not in (text, *older):
            raise InvalidArgumentError(
                f"{path} does not fit this export (other shapes, classes or batching), and belongs to the "
                f"versions already there: choose another --name than {path.parent.name!r}"
            ) from None


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
    "Manifest",
    "check_name",
    "config_text",
    "read_bundle",
    "versions",
    "write_bundle",
    "write_next_version",
]
