"""What a bundle was made from, so that one that would come out the same is not made again.

It stands beside ``bundle.json`` in the version folder and lands together with it: the hash of the checkpoint, every
option, hashes of the images that are used, the versions of the software, and a hash of the compiler's own code, which
changes more often than its version. Paths are not in it: a checkpoint that
moved is still the same one. Of images, neither names nor times of files tell whether they are the same, and a plan that
has something to make decodes them in any case: so what counts is the pixels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from safetensors import SafetensorError, safe_open

from penstock import data
from penstock.bundle import INPUTS_FILE, Bundle, Interface, read_bundle, versions
from penstock.data.images import ImageSet
from penstock.errors import BundleError, InvalidArgumentError, NotFoundError, UnsupportedError
from penstock.export.options import ExportOptions
from penstock.export.source import source_file
from penstock.files import folder_locked, sha256
from penstock.manifest import FP32
from penstock.nn.sub_architectures import sub_architectures_file
from penstock.standing_config import complete

SCHEMA = 3
# Told by hash, or by where the bundle stands.
ELSEWHERE = ("source", "gates", "sub_architectures", "repository", "name", "data")
PACKAGES = ("penstock", "torch", "torchvision", "onnx", "onnx-ir", "onnxscript", "openvino", "numpy")
# Whose code a bundle comes from, beside the modules of the package itself.
ROOMS = ("penstock.data", "penstock.detect", "penstock.export", "penstock.nn")


def inputs_of(options: ExportOptions) -> dict[str, Any]:
    """All that a bundle depends on, as JSON values.

    Raises:
        PenstockError: the images in ``options.data`` are not there or damaged.
    """
    file = _file(options)
    return {
        "schema": SCHEMA,
        "source": {"sha256": sha256(file)} if file else {"name": options.source},
        "gates": None if options.gates is None else sha256(source_file(options.gates, None)),
        "sub_architectures": _sub_architectures(options.sub_architectures),
        "images": None if file is None else _images(_data_name(file), options.data, _parts(options)),
        "options": {
            item.name: _identity(getattr(options, item.name))
            for item in fields(options)
            if item.name not in ELSEWHERE
        },
        "versions": {name: _version(name) for name in PACKAGES} | {"onnxruntime": onnxruntime.__version__},
        "compiler": _compiler(),
    }


def _version(package: str) -> str | None:
    """``None`` for a package that is not there; OpenVINO is an extra, which ``auto`` may measure with."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache
def _compiler() -> str:
    """Hash of the code that bundles come from."""
    digest = hashlib.sha256()
    homes = {name: Path(import_module(name).__path__[0]) for name in ("penstock", *ROOMS)}
    for name, home in homes.items():
        for file in sorted(home.glob("*.py" if name == "penstock" else "**/*.py")):
            digest.update(str(file.relative_to(home)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _sub_architectures(found: Path | None) -> str | None:
    if found is None:
        return None
    file = sub_architectures_file(found)
    return sha256(file) if file.is_file() else None


def to_json(inputs: dict[str, Any]) -> str:
    """The text of the file."""
    return json.dumps(inputs, indent=2) + "\n"


def standing(options: ExportOptions, inputs: dict[str, Any]) -> Bundle | None:
    """The model's newest version, if it was made from these inputs and is whole.

    An older one is not enough: what is served is the newest. Without the files that belong to all versions it is not
    served either, so those that are missing are written, as the next version would write them.

    Raises:
        OSError: they cannot be written.
    """
    numbers = versions(options.home)
    if not numbers:
        return None
    folder = options.home / str(numbers[-1])
    try:
        recorded = json.loads((folder / INPUTS_FILE).read_text(encoding="utf-8"))
        found = read_bundle(folder) if recorded == json.loads(to_json(inputs)) else None
    except (OSError, ValueError, BundleError):  # made without a plan, or damaged
        return None
    if found is not None:
        with folder_locked(options.home):
            complete(options.home, Interface.of(found.manifest))
    return found


def _file(options: ExportOptions) -> Path | None:
    """The file behind a source; ``None`` for one that its name alone defines, or that the export will not find."""
    try:
        return source_file(options.source, options.class_name)
    except (NotFoundError, UnsupportedError):
        return None


def _data_name(file: Path) -> str:
    """Name of the data set that a checkpoint was learned from; empty where the export will find the file wanting."""
    try:
        with safe_open(file, framework="np") as opened:
            about = json.loads((opened.metadata() or {})["penstock"])
        return str(about["config"].get("data", ""))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError):
        return ""


def _parts(options: ExportOptions) -> tuple[str, ...]:
    """Which parts of its data set an export reads.

    Training images where gates look on anew, or where another detector is wanted than the stored one; those of
    validation where it reduces the precision, whose scales they give.
    """
    fits = options.observe or options.gates is not None or options.detector is not None
    used = {"calibration": True, "train": options.flagging and fits, "validation": options.precision != FP32}
    return tuple(part for part, wanted in used.items() if wanted)


@lru_cache  # of one plan: its processes end with it
def _images(name: str, folder: Path | None, parts: tuple[str, ...]) -> dict[str, str] | None:
    """Hashes of the images that are used; ``None`` where there are none and synthetic ones will serve."""
    try:
        splits = data.load(name, folder=folder)
    except (NotFoundError, UnsupportedError, InvalidArgumentError):
        if folder is not None:
            raise
        return None
    return {part: _hash(getattr(splits, part)) for part in parts}


def _hash(images: ImageSet) -> str:
    """Hash of images and their classes, by which some are drawn."""
    digest = hashlib.sha256(f"{images.images.shape} {images.class_names}".encode())
    for array in (images.images, images.labels):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _identity(value: Any) -> Any:
    """An option as JSON; a path is known by what it leads to."""
    if isinstance(value, Path):
        return sha256(value) if value.is_file() else value.name
    return list(value) if isinstance(value, tuple) else value
