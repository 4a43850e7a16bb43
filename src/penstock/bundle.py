"""Bundles: what export writes and the service reads.

A bundle is one version folder of a Triton-style model repository:

    <repository>/<name>/config.pbtxt            how to call the model; belongs to all its versions
    <repository>/<name>/labels.txt              class names, one a line
    <repository>/<name>/<version>/model.onnx    the graph, runs in any stock ONNX Runtime
    <repository>/<name>/<version>/bundle.json   the `Manifest`: what the graph is, how checked, its hash
    <repository>/<name>/<version>/detector.npz  the detector's tables, where the graph flags: to explain flags

The version folder is written beside its place and renamed into it, so a reader sees a whole bundle or none.
The configuration is written before the first version and never changed by a later one. Where no version stands, it
belongs to none, as after an export that was killed before its version was there, and the next export writes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import BundleError, InvalidArgumentError, NotFoundError
from penstock.files import folder_atomic, folder_locked, sha256, write_atomic
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
    BATCHING,
    CONFIG_FILE,
    LABELS_FILE,
    MAX_BATCH_PARAMETER,
    Interface,
    config_files,
    config_text,
)

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
    home = repository / name

    def configure() -> None:
        _configure(home, Interface.of(manifest))

    return _write_version(home, manifest, model.read_bytes(), also or {}, configure)


def misfit(home: Path, interface: Interface) -> Path | None:
    """The file of a model's folder that belongs to its versions and says something else, if there is one.

    Args:
        home: folder of the model; it need not be there.
        interface: of the version that is to be added.
    """
    if not versions(home):
        return None
    texts = {home / file: text for file, text in config_files(home.name, interface).items()}
    return next((file for file, text in texts.items() if file.exists() and not _says(file, text)), None)


def refuse_misfit(home: Path, interface: Interface) -> None:
    """Refuse a version that is called in another way than those already there.

    Raises:
        InvalidArgumentError: the model's ``config.pbtxt`` or ``labels.txt`` says something else.
    """
    file = misfit(home, interface)
    if file is not None:
        raise InvalidArgumentError(
            f"{file} does not fit this export (other shapes, classes or batching), and belongs to the "
            f"versions already there: choose another --name than {home.name!r}"
        )


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
    if Interface.of(manifest) != Interface.of(old.manifest):
        raise InvalidArgumentError(f"another version of {home.name!r} must have the same inputs and outputs")
    return _write_version(home, manifest, content, also, lambda: None)


def _write_version(
    home: Path,
    manifest: Manifest,
    content: bytes,
    also: Mapping[str, str | bytes],
    configure: Callable[[], None],
) -> Bundle:
    home.mkdir(parents=True, exist_ok=True)
    while True:
        version = home / str(max(_numbers(home), default=0) + 1)
        try:
            # Locked until it stands, or of two first exports one would change the other's configuration.
            with folder_locked(home), folder_atomic(version) as folder:
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


def _configure(home: Path, interface: Interface) -> None:
    """Write the files that belong to all versions, where they do not say the same already."""
    refuse_misfit(home, interface)
    for file, text in config_files(home.name, interface).items():
        if not _says(home / file, text):
            write_atomic(home / file, text)


def _says(path: Path, text: str) -> bool:
    """Whether a file says this, or did before exports shared runs."""
    return path.is_file() and path.read_text(encoding="utf-8") in (text, text.removesuffix(BATCHING))


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
    "misfit",
    "read_bundle",
    "refuse_misfit",
    "versions",
    "write_bundle",
    "write_next_version",
]
