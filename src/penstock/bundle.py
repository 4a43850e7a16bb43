"""Bundles: what export writes and the service reads.

A bundle is one version folder of a Triton-style model repository:

    <repository>/<name>/config.pbtxt            how to call the model; belongs to all its versions
    <repository>/<name>/labels.txt              class names, one a line
    <repository>/<name>/<version>/model.onnx    the graph, runs in any stock ONNX Runtime
    <repository>/<name>/<version>/bundle.json   the `Manifest`: what the graph is, how checked, its hash

The version folder is written beside its place and renamed into it, so a reader sees a whole bundle or none.
The configuration is written before the first version and never changed by a later one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from penstock.errors import BundleError, InvalidArgumentError, NotFoundError
from penstock.files import folder_atomic, sha256, write_atomic
from penstock.paths import PathLayout
from penstock.records import read_record

SCHEMA = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "bundle.json"
CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
MAX_BATCH_PARAMETER = "penstock_max_batch"

INPUT = "images"
LOGITS, PATH, ACTIVE_MACS, SCORE, FLAG = OUTPUTS = (
    "logits",
    "path",
    "active_macs",
    "anomaly_score",
    "adversarial",
)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a detector's threshold came about.

    Attributes:
        detector: name of the detector whose score the graph computes.
        target_fpr: promised share of flagged honest inputs, marginal over calibration sets.
        threshold: a score above it raises the flag.
        images: number of calibration images.
        source: ``graph`` if the scores came from the exported graph itself, ``stored`` if they were stored
            with the checkpoint and the graph was verified to reproduce such scores.
    """

    detector: str
    target_fpr: float
    threshold: float
    images: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a bundle that is not in its graph, or that should be known before loading it.

    Attributes:
        model_sha256: hash of ``model.onnx``.
        source: name of what was exported and ``sha256`` of its checkpoint.
        input_shape: ``(channels, height, width)`` of one image.
        class_names: one name per logit.
        layout: what the path's bits mean.
        lowering: ``dense``, ``masked`` or ``gathered``.
        layer_lowerings: lowering of each gated layer by name.
        measured_ms: median time of each lowering that was tried, one image, where ``auto`` chose.
        executed_macs: mean share of the dense MACs that the graph really executes, whatever its paths ask for.
        precision: ``fp32``.
        max_batch: largest batch that one request may carry.
        single: whether the graph takes exactly one image, so that a batch is spread over several runs.
        parity: figures of the verification against PyTorch.
        calibration: how the flag's threshold was found; ``None`` for a graph that never flags.
        versions: versions of the software that took part.
    """

    model_sha256: str
    source: dict[str, str]
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    layout: PathLayout
    lowering: str
    layer_lowerings: dict[str, str] = field(default_factory=dict)
    measured_ms: dict[str, float] = field(default_factory=dict)
    executed_macs: float = 1.0
    precision: str = "fp32"
    max_batch: int
    single: bool
    parity: dict[str, float]
    calibration: Calibration | None = None
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise InvalidArgumentError(f"max_batch is {self.max_batch}; at least 1 is needed")
        if min(self.input_shape) < 1:
            raise InvalidArgumentError(f"input_shape is {self.input_shape}; every number must be 1 or more")

    @property
    def output_widths(self) -> dict[str, int]:
        """The second dimension of every output, in the contract's order; the first is the batch."""
        wide = {LOGITS: len(self.class_names), PATH: self.layout.bits}
        return {name: wide.get(name, 1) for name in OUTPUTS}

    def to_json(self) -> str:
        """The text of ``bundle.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of ``bundle.json``.

        Raises:
            BundleError: not JSON, another schema, or a missing, unknown or ill-typed key.
        """
        try:
            value = json.loads(text)
            if value["schema"] != SCHEMA:
                raise BundleError(
                    f"{MANIFEST_FILE} has schema {value['schema']!r}; this version reads {SCHEMA}"
                )
            return read_record(cls, value)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{MANIFEST_FILE} cannot be read ({error!r}): export again") from error


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
    found = sha256(folder / MODEL_FILE)
    if found != manifest.model_sha256:
        raise BundleError(
            f"{folder / MODEL_FILE} is damaged: its sha256 is {found[:12]}..., "
            f"{MANIFEST_FILE} says {manifest.model_sha256[:12]}...: export again"
        )
    return Bundle(folder, manifest)


def write_bundle(
    repository: Path, name: str, manifest: Manifest, model: Path, *, also: dict[str, str] | None = None
) -> Bundle:
    """Add a version to a model repository: the whole of it, or nothing.

    Args:
        repository: folder of models; made if it is not there.
        name: model name; letters, digits, ``-``, ``_`` and ``.``.
        manifest: must carry the hash of ``model``.
        model: the ONNX file; it is copied.
        also: further text files for the version folder, by name.

    Raises:
        InvalidArgumentError: the name cannot be a model's, or the model's ``config.pbtxt`` says something
            else than this export would.
    """
    check_name(name)
    config = config_text(name, manifest)
    labels = "".join(f"{label}\n" for label in manifest.class_names)
    home = repository / name
    while True:
        version = home / str(max(_numbers(home), default=0) + 1)
        try:
            with folder_atomic(version) as folder:
                (folder / MODEL_FILE).write_bytes(model.read_bytes())
                (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
                for file, text in (also or {}).items():
                    (folder / file).write_text(text, encoding="utf-8")
                read_bundle(folder)
                # Last, so that an export that failed leaves no configuration for others to trip over.
                _write_or_agree(home / CONFIG_FILE, config)
                _write_or_agree(home / LABELS_FILE, labels)
        except FileExistsError:
            continue  # another export took this number meanwhile
        return read_bundle(version)


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


def config_text(name: str, manifest: Manifest) -> str:
    """The ``config.pbtxt`` that Triton and the service read.

    A graph for single images has no batch dimension of its own to announce: its dims include the 1, and
    `MAX_BATCH_PARAMETER` tells the service how far it may spread.
    """
    batch = [1] if manifest.single else []
    types = {PATH: "TYPE_UINT8", FLAG: "TYPE_BOOL"}

    def tensor(tensor_name: str, datatype: str, dims: list[int], extra: str = "") -> str:
        return f'  {{ name: "{tensor_name}" data_type: {datatype} dims: {dims}{extra} }}'

    outputs = [
        tensor(
            output,
            types.get(output, "TYPE_FP32"),
            [*batch, width],
            f' label_filename: "{LABELS_FILE}"' if output == LOGITS else "",
        )
        for output, width in manifest.output_widths.items()
    ]
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {0 if manifest.single else manifest.max_batch}",
        "input [",
        tensor(INPUT, "TYPE_FP32", [*batch, *manifest.input_shape]),
        "]",
        "output [",
        ",\n".join(outputs),
        "]",
    ]
    if manifest.single:
        value = f'{{ string_value: "{manifest.max_batch}" }}'
        lines.append(f'parameters {{ key: "{MAX_BATCH_PARAMETER}" value {value} }}')
    return "\n".join(lines) + "\n"


def _write_or_agree(path: Path, text: str) -> None:
    """Write a file of the model's, or see that it says the same already; of two at once one writes."""
    try:
        write_atomic(path, text, replace=False)
    except FileExistsError:
        if path.read_text(encoding="utf-8") != text:
            raise InvalidArgumentError(
                f"{path} does not fit this export (other shapes, classes or batching), and belongs to the "
                f"versions already there: choose another --name than {path.parent.name!r}"
            ) from None


__all__ = [
    "ACTIVE_MACS",
    "CONFIG_FILE",
    "FLAG",
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
]
