"""What one export is asked to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.bundle import check_name
from penstock.detect.recipe import SUB_ARCHITECTURE, Recipe
from penstock.errors import InvalidArgumentError
from penstock.export.autotune.engines import OPENVINO, PROVIDERS
from penstock.export.lowerings.gathered import Gathered
from penstock.export.lowerings.lowering import Lowering
from penstock.export.lowerings.masked import Masked
from penstock.export.lowerings.routed import Routed
from penstock.export.passes.align_widths import compact
from penstock.manifest import FP16, FP32, INPUT_TYPES, INT8, PRECISIONS
from penstock.nn.cascade_member import MEMBERS

# What makes a lowering, told whether the model takes one image at most, and its precision.
LOWERINGS: dict[str, Callable[..., Lowering]] = {
    "masked": lambda *, single, precision: Masked(),
    "gathered": lambda *, single, precision: Gathered(),
    "routed": lambda *, single, precision: Routed(single, others=compact(precision)),
}
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and how.

    Attributes:
        source: a run folder, a checkpoint file, or ``zoo:NAME``; with ``class_name``, a disentanglement's run folder.
        repository: model repository to write to.
        name: model name in it.
        class_name: export the sub-architecture of this class, a small static network without flags.
        member: of a cascade, export only its ``first`` or its ``second`` member, without flags.
        dense: export the network as it was before it got gates, under the same contract.
        observe: with ``dense``: let the gates look on, and flag by what they would have opened.
        lowering: ``masked``, ``gathered``, ``routed``, or ``auto``: whichever is faster here.
        precision: of convolutions and classifier: ``fp32``, ``int8`` for processors, or ``fp16`` for GPUs.
        flags: compute anomaly scores and flags, where there are paths that depend on the input; without, observers are
            left out, too.
        detector: name of a recipe, `penstock.detect.recipe`; ``None``: the source's own.
        sub_architectures: run folder or file of a disentanglement, for a detector that compares with these.
        gates: a decoupled source whose gates look on beside the routers of this one, one for each stage, so that the
            detector sees what they would open.
        settle: take away the gates of filters that every calibration image opens, or none; only without flags, because
            a detector looks at all gates.
        fpr: promised false-positive rate.
        data: folder of the data set; by default what ``PENSTOCK_DATA`` says.
        input_type: what the model takes: ``fp32`` values from 0 to 1, or ``uint8`` pixels from 0 to 255.
        max_batch: largest batch of one request; 1 lets ``routed`` make the faster form for one image.
        provider: what ``auto`` measures on: ``cpu``, ``cuda`` or ``openvino``.
        batch: images in one run of that measurement.
        threads: of one run on the CPU.
    """

    source: str
    repository: Path
    name: str
    class_name: str | None = None
    member: str | None = None
    dense: bool = False
    observe: bool = False
    lowering: str = AUTO
    precision: str = FP32
    flags: bool = True
    detector: str | None = None
    sub_architectures: Path | None = None
    gates: str | None = None
    settle: bool = False
    fpr: float = 0.05
    data: Path | None = None
    input_type: str = INPUT_TYPES[0]
    max_batch: int = 32
    provider: str = "cpu"
    batch: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        check_name(self.name)
        self._check_choices()
        self._check_numbers()
        self._check_part()
        self._check_precision()
        self._check_detector()
        self._check_gates()

    def _check_choices(self) -> None:
        choices: tuple[tuple[str, str | None, tuple[str | None, ...]], ...] = (
            ("lowering", self.lowering, (AUTO, *LOWERINGS)),
            ("precision", self.precision, PRECISIONS),
            ("input type", self.input_type, INPUT_TYPES),
            ("provider", self.provider, PROVIDERS),
            ("member", self.member, (None, *MEMBERS)),
        )
        for what, value, known in choices:
            if value not in known:
                names = ", ".join(filter(None, known))
                raise InvalidArgumentError(f"no {what} {value!r}; there are {names}")

    def _check_numbers(self) -> None:
        if not 0 < self.fpr < 1:
            raise InvalidArgumentError(f"fpr is {self.fpr}; a false-positive rate lies between 0 and 1")
        for name in ("max_batch", "batch", "threads"):
            if getattr(self, name) < 1:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)}; at least 1")
        if self.batch > self.max_batch:
            raise InvalidArgumentError(f"batch is {self.batch}, more than max_batch {self.max_batch} allows")

    def _check_part(self) -> None:
        if self.dense and self.class_name is not None:
            raise InvalidArgumentError(
                f"dense and class_name {self.class_name!r}: the dense network is that of all classes; take one of both"
            )
        if self.member is not None and (self.dense or self.class_name is not None):
            raise InvalidArgumentError(
                f"member {self.member!r} is one of a cascade's own two networks: leave dense and class_name out"
            )

    def _check_precision(self) -> None:
        if self.precision == INT8 and self.lowering == Gathered.name and not self.dense:
            raise InvalidArgumentError(
                "precision int8 and lowering gathered: it gathers other weights for each image, which at int8 takes "
                "the time that it saves; take lowering masked or routed, or precision fp32"
            )
        if self.precision == INT8 and self.provider in OPENVINO:
            raise InvalidArgumentError(
                "precision int8 and provider openvino: OpenVINO 2026.4 gives other answers than ONNX Runtime, in which "
                "int8 is checked; take provider cpu, or precision fp32, which OpenVINO narrows to bf16 by itself where "
                "the processor can"
            )
        if self.observe and self.precision == FP16:
            raise InvalidArgumentError(
                "observe and precision fp16: processors, on which exports are checked, round float16 at other places "
                "when somebody looks on, so that answers cannot be shown to be untouched; take fp32 or int8"
            )

    def _check_detector(self) -> None:
        if self.detector is not None:
            Recipe.parse(self.detector)
            if not self.flagging:
                raise InvalidArgumentError(
                    f"detector {self.detector!r} is for exports that flag: leave it out beside --no-flags, --class, "
                    "--member and --dense without --observe"
                )
        asked = self.detector is not None and SUB_ARCHITECTURE in Recipe.parse(self.detector).parts
        if asked != (self.sub_architectures is not None):
            raise InvalidArgumentError(
                f"detector {self.detector!r}, sub_architectures {str(self.sub_architectures)!r}: a detector with the "
                f"part {SUB_ARCHITECTURE} takes the run of `penstock disentangle` that found them, and no other does"
            )

    def _check_gates(self) -> None:
        if self.gates is not None and (self.dense or not self.flags):
            raise InvalidArgumentError(
                f"gates {self.gates!r} look on beside routers, for a detector: leave out --dense and --no-flags"
            )
        if self.observe and not (self.dense and self.flags):
            raise InvalidArgumentError(
                "observe lets gates look on at the dense network, to flag by what they see: add --dense, and leave out "
                "--no-flags"
            )
        if self.settle and self.flags:
            raise InvalidArgumentError("settle takes gates away that the detector looks at: add --no-flags")

    @property
    def home(self) -> Path:
        """Folder of the model."""
        return self.repository / self.name

    @property
    def flagging(self) -> bool:
        """Whether the bundle will have a detector.

        The dense network, where nothing looks on, and a class's path are the same for all inputs; a cascade's detector
        looks at both members.
        """
        return (
            self.flags
            and (self.observe or not self.dense)
            and self.class_name is None
            and self.member is None
        )

    @property
    def forms(self) -> tuple[bool, ...]:
        """Whether the graph will take exactly one image at a time; both answers where ``auto`` may make either."""
        if self.dense:
            return (False,)
        if self.lowering == AUTO:
            return (False, True)
        return (LOWERINGS[self.lowering](single=self.max_batch == 1, precision=self.precision).single,)

    @property
    def dense_will_do(self) -> bool:
        """Whether ``auto`` may take the dense network: nobody asked for flags, or for a part of the source."""
        return not self.flags and self.class_name is None and self.member is None
