"""What a bundle says of itself, and the names of the tensors that every exported model has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import numpy.typing as npt

from penstock.errors import BundleError, InvalidArgumentError
from penstock.paths import PathLayout
from penstock.records import read_record

# 2: layers read several others, depthwise convolutions follow them; 3: what tuning measured; 4: pixels may be bytes,
# and precision less; 5: further files are hashed, the detector's tables among them; 6: classes may have thresholds of
# their own; 7: what passes did; 8: what a routed graph chose; 9: which images rank scores; 10: what tuning measured of
# each stage. Manifests of schemas 5 to 9 lack that and nothing else.
SCHEMA = 10
READABLE = (5, 6, 7, 8, 9, SCHEMA)
MANIFEST_FILE = "bundle.json"

FP32, INT8, FP16 = PRECISIONS = ("fp32", "int8", "fp16")

INPUT = "images"
INPUT_TYPES = ("fp32", "uint8")  # values from 0 to 1, or bytes from 0 to 255
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
        threshold: a score above it raises the flag, unless classes have thresholds of their own: then it is what
            all of them together would have.
        images: number of calibration images.
        source: ``graph`` if the scores came from the exported graph itself, ``stored`` if they were stored
            with the checkpoint and the graph was verified to reproduce such scores.
        data: what images they were, as far as it was said: the name of a data set or of a folder.
        ranked_by: the data set of which the detector ranks scores by some calibration images
            (`penstock.detect.recipe.Recipe.ranking`), which no threshold may be set on, whatever ``data`` says;
            empty: none, or a bundle of an earlier schema.
        class_thresholds: one per class, for images that are taken for it; empty: one threshold for all.
        class_images: number of calibration images that were taken for each class, where those are given.
    """

    detector: str
    target_fpr: float
    threshold: float
    images: int
    source: str
    data: str = ""
    ranked_by: str = ""
    class_thresholds: tuple[float, ...] = ()
    class_images: tuple[int, ...] = ()

    def thresholds_of(self, predicted: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """What each image's score is compared with, ``[N]``, given the classes that they are taken for, ``[N]``."""
        if not self.class_thresholds:
            return np.full(predicted.shape, self.threshold, np.float32)
        return np.array(self.class_thresholds, np.float32)[predicted]


@dataclass(frozen=True, kw_only=True)
class PassRecord:
    """What one pass of the compiler did, over all the graphs of a model.

    Attributes:
        name: of the pass.
        changed: number of places that it changed.
        declined: why it left places alone, and how many; none, where it had nothing to do with this kind of graph.
    """

    name: str
    changed: int
    declined: dict[str, int]

    def __str__(self) -> str:
        left = [f"{why}{f' ({count})' if count else ''}" for why, count in self.declined.items()]
        if not self.changed and not left:
            return f"{self.name}: nothing there to do"
        return f"{self.name}: {self.changed} places" + (f"; left alone: {'; '.join(left)}" if left else "")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A place where a routed graph has a choice, or would have one with more prototypes.

    Attributes:
        place: first convolution of a stage; of a cascade, the bit that says whether the second member ran.
        images: of those that the graph was checked on, how many took each option: each prototype; of a cascade, the
            first member alone, or the second too.
    """

    place: str
    images: tuple[int, ...]

    def __str__(self) -> str:
        if len(self.images) == 1:
            return f"at {self.place}: static"
        return f"at {self.place}: chosen for {', '.join(f'{count:,}' for count in self.images)} images"


@dataclass(frozen=True, kw_only=True)
class TunedStage:
    """What was measured to choose an option for one stage, the others being as they were chosen until then.

    Attributes:
        layers: the gated layers in it, in order.
        tried_ms: milliseconds of the whole network with each option here: median over runs, mean over batches. Options
            that come to the same graph are measured as one; none, where there was one option only.
        chosen: the option taken; not the fastest, where that was faster by so little that it may be noise, or where
            what was fastest failed its checks (`Tuning.declined`) and another option was taken for all stages.
    """

    layers: tuple[str, ...]
    tried_ms: dict[str, float]
    chosen: str

    def __str__(self) -> str:
        more = f" and {len(self.layers) - 1} more" if len(self.layers) > 1 else ""
        times = [f"{option} {milliseconds:.3f} ms" for option, milliseconds in self.tried_ms.items()]
        return f"at {self.layers[0]}{more}: {', '.join([*times, f'taken {self.chosen}'])}"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was measured to choose a lowering, on the machine of the export.

    Attributes:
        provider: what ran the graphs.
        batch: images in one run.
        threads: of one run on the CPU.
        tried_ms: milliseconds of each option, the same in all stages: median over runs, mean over batches; and, where
            the dense network was taken, of the stage by stage ``tuned`` form that lost against it.
        stages: what was measured and chosen of each after that, in order; none in a bundle of an earlier schema.
        dense_ms: of the dense network, at the same precision, measured beside the choice.
        chosen_ms: of the choice.
        layers: the option that each gated layer got; none in the dense network.
        declined: options that cannot do this network or provider, and why.
    """

    provider: str
    batch: int
    threads: int
    tried_ms: dict[str, float]
    dense_ms: float
    chosen_ms: float
    layers: dict[str, str]
    declined: tuple[str, ...]
    stages: tuple[TunedStage, ...] = ()

    @property
    def ratio(self) -> float:
        """How many times faster than the dense network the choice is."""
        return self.dense_ms / self.chosen_ms

    def of_dense(self) -> Tuning:
        """The record where the dense network was taken: what lost against it stands among what was tried."""
        tried_ms = self.tried_ms | {"tuned": self.chosen_ms}
        return replace(self, tried_ms=tried_ms, chosen_ms=self.dense_ms, layers={})


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well a graph of reduced precision agrees with the float32 graph that it was made from.

    Attributes:
        images: number of images compared.
        logit_error: median over the images of the norm of the logits' difference, relative to the norm of the
            float32 graph's logits.
        top1_agreement: share of the images with the same most likely class; ``None`` where the images are synthetic
            or the weights random, so that classes mean nothing.
        same_path: share of the images with the same path: routers and gates look at activations of that precision.
        same_bits: share of equal path bits.
    """

    images: int
    logit_error: float
    top1_agreement: float | None
    same_path: float
    same_bits: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a bundle that is not in its graph, or that should be known before loading it.

    Attributes:
        model_sha256: hash of ``model.onnx``.
        source: name of what was exported and ``sha256`` of its checkpoint; those of ``gates`` and ``sub_architectures``
            where an export took them from elsewhere.
        input_shape: ``(channels, height, width)`` of one image.
        input_type: ``fp32`` or ``uint8``, as in `INPUT_TYPES`.
        class_names: one name per logit.
        layout: what the path's bits mean.
        lowering: ``dense``, ``observed`` (dense, with gates that look on), ``masked``, ``gathered`` or ``routed``.
        passes: what the compiler's passes did, in order.
        choices: what a routed graph chose, place by place; none for other lowerings.
        tuning: what was measured where ``auto`` chose.
        executed_macs: mean share of the dense MACs that the graph really executes, whatever its paths ask for.
        precision: of convolutions and classifier: ``fp32``, ``int8`` or ``fp16``.
        max_batch: largest batch that one request may carry.
        single: whether the graph takes exactly one image, so that a batch is spread over several runs.
        parity: figures of the verification against PyTorch, in float32.
        agreement: how well the graph agrees with its float32 form, where its precision is reduced.
        calibration: how the flag's threshold was found; ``None`` for a graph that never flags.
        versions: versions of the software that took part.
        files: hashes of further files of the version folder, by name.
    """

    model_sha256: str
    source: dict[str, str]
    input_shape: tuple[int, int, int]
    input_type: str = INPUT_TYPES[0]
    class_names: tuple[str, ...]
    layout: PathLayout
    lowering: str
    passes: tuple[PassRecord, ...] = ()
    choices: tuple[Choice, ...] = ()
    tuning: Tuning | None = None
    executed_macs: float = 1.0
    precision: str = FP32
    max_batch: int
    single: bool
    parity: dict[str, float]
    agreement: Agreement | None = None
    calibration: Calibration | None = None
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise InvalidArgumentError(f"max_batch is {self.max_batch}; at least 1 is needed")
        if self.input_type not in INPUT_TYPES:
            raise InvalidArgumentError(
                f"no input type {self.input_type!r}; there are {', '.join(INPUT_TYPES)}"
            )
        if self.precision not in PRECISIONS:
            raise InvalidArgumentError(f"no precision {self.precision!r}; there are {', '.join(PRECISIONS)}")
        if min(self.input_shape) < 1:
            raise InvalidArgumentError(f"input_shape is {self.input_shape}; every number must be 1 or more")
        own = () if self.calibration is None else self.calibration.class_thresholds
        if len(own) not in (0, len(self.class_names)):
            raise InvalidArgumentError(f"{len(own)} class_thresholds for {len(self.class_names)} classes")

    @property
    def static(self) -> bool:
        """Whether the graph is routed and yet has nothing to choose: the same filters run for every image."""
        return bool(self.choices) and all(len(choice.images) == 1 for choice in self.choices)

    @property
    def form(self) -> str:
        """The lowering, for people."""
        return f"{self.lowering}, static" if self.static else self.lowering

    @property
    def output_widths(self) -> dict[str, int]:
        """The second dimension of every output, in the contract's order; the first is the batch."""
        return output_widths(len(self.class_names), self.layout.bits)

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
            if value["schema"] not in READABLE:
                raise BundleError(
                    f"{MANIFEST_FILE} has schema {value['schema']!r}; this version reads "
                    f"{' and '.join(map(str, READABLE))}: export again"
                )
            return read_record(cls, value | {"schema": SCHEMA})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{MANIFEST_FILE} cannot be read ({error!r}): export again") from error


def output_widths(classes: int, bits: int) -> dict[str, int]:
    """The second dimension of every output, in the contract's order, for a number of classes and of path bits."""
    wide = {LOGITS: classes, PATH: bits}
    return {name: wide.get(name, 1) for name in OUTPUTS}
