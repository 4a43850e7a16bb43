"""Write bundles: a version of a model repository appears whole, or not at all.

The version folder is written beside its place and renamed into it, so a reader sees a whole bundle or none.
The configuration is written before the first version and never changed by a later one. Where no version stands, it
belongs to none, as after an export that was killed before its version was there, and the next export writes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from penstock.bundle import MODEL_FILE, Bundle, check_name, numbers_taken, read_bundle
from penstock.errors import InvalidArgumentError
from penstock.files import folder_atomic, folder_locked
from penstock.manifest import MANIFEST_FILE, Manifest
from penstock.model_config import Interface
from penstock.standing_config import configure


def write_bundle(
    repository: Path,
    name: str,
    manifest: Manifest,
    content: bytes,
    *,
    also: Mapping[str, str | bytes] | None = None,
) -> Bundle:
    """Add a version to a model repository: the whole of it, or nothing.

    Args:
        repository: folder of models; made if it is not there.
        name: model name; letters, digits, ``-``, ``_`` and ``.``.
        manifest: must carry the hash of ``content``.
        content: of the ONNX file.
        also: further files for the version folder, by name.

    Raises:
        InvalidArgumentError: the name cannot be a model's, or the model's ``config.pbtxt`` says something
            else than this export would.
    """
    check_name(name)
    home = repository / name
    interface = Interface.of(manifest)
    return _write_version(home, manifest, content, also or {}, lambda: configure(home, interface))


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
    prepare: Callable[[], None],
) -> Bundle:
    home.mkdir(parents=True, exist_ok=True)
    while True:
        version = home / str(max(numbers_taken(home), default=0) + 1)
        try:
            # Locked until it stands, or of two first exports one would change the other's configuration.
            with folder_locked(home), folder_atomic(version) as folder:
                (folder / MODEL_FILE).write_bytes(content)
                (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
                for file, text in also.items():
                    (folder / file).write_bytes(text.encode() if isinstance(text, str) else text)
                written = read_bundle(folder)
                # Last, so that an export that failed leaves no configuration for others to trip over.
                prepare()
        except FileExistsError:
            continue  # another export took this number meanwhile
        return Bundle(version, written.manifest)
