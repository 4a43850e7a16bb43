"""Compare an exported graph with the PyTorch network that it was made from, before anything is written.

What lies within `MARGIN` of the point where a bit flips may fall to either side in another engine: the bit is then no
error, and neither is what follows in that image, later bits and logits, because it took another path. Such bits are
counted and reported. Everything else must agree: bits exactly, logits, costs and scores to `TOLERANCE`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from penstock.bundle import FLAG, LOGITS, SCORE, Calibration
from penstock.errors import VerificationError
from penstock.export.capture.contract import Answer, ServedModel
from penstock.export.runtime import BATCH, Outputs
from penstock.export.verify.margins import listening, margins
from penstock.nn.inference import Levels
from penstock.paths import PathLayout

TOLERANCE = 1e-4
MARGIN = 1e-4
FLIPPED = 0.05  # share of the images that may take another path by such bits


@dataclass(frozen=True)
class Reference:
    """What PyTorch answers.

    Attributes:
        answer: outputs of the contract, as tensors ``[N, ...]``.
        margins: ``[N, P]``, how far each bit is from flipping; see `penstock.export.verify.margins`.
    """

    answer: Answer
    margins: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How well a graph agrees with PyTorch.

    Attributes:
        images: number of images compared.
        max_abs: largest difference of a logit, over images whose paths agree.
        score_max_abs: the same of the anomaly score, relative to ``max(1, |score|)``.
        top1_agreement: share of all images with the same most likely class.
        bits_flipped: bits that differ in the first layer that does in their image, all of them within the margin.
        images_flipped: images with such a bit.
    """

    images: int
    max_abs: float
    score_max_abs: float
    top1_agreement: float
    bits_flipped: int
    images_flipped: int


@torch.inference_mode()
def reference(model: torch.nn.Module, images: Levels, batch: int = BATCH) -> Reference:
    """Answers of a `ServedModel` or `DenseModel` in PyTorch for images ``[N, C, H, W]`` in 0..255."""
    answers, far = [], []
    for start in range(0, len(images), batch):
        floats = torch.from_numpy(images[start : start + batch]).float() / 255
        if isinstance(model, ServedModel):
            with listening(model.network) as heard:
                answers.append(model(floats))
            far.append(margins(model.network, heard))
        else:
            answers.append(model(floats))
            far.append(torch.full(answers[-1].path.shape, torch.inf))
    joined = Answer(*(torch.cat(parts) for parts in zip(*answers, strict=True)))
    return Reference(joined, torch.cat(far).numpy())


def verify(expected: Reference, got: Outputs, layout: PathLayout) -> Parity:
    """Check a graph's answers.

    Raises:
        VerificationError: something differs by more than may be; says what, by how much, and in which layer.
    """
    want = {name: tensor.numpy() for name, tensor in expected.answer._asdict().items()}
    differs = want["path"] != got["path"]
    first = _first_differences(differs, layout)
    _refuse_far_bits(first, expected, layout)
    same = ~differs.any(axis=1)
    if (~same).mean() > FLIPPED:
        raise VerificationError(
            f"{(~same).mean():.0%} of the images took another path in the graph, by bits within {MARGIN:g} of "
            f"flipping; at most {FLIPPED:.0%} may: the network is undecided, train it longer"
        )
    parity = Parity(
        images=len(same),
        max_abs=_largest(want["logits"][same], got["logits"][same]),
        score_max_abs=_largest_relative(want["anomaly_score"][same], got["anomaly_score"][same]),
        top1_agreement=float((want["logits"].argmax(1) == got["logits"].argmax(1)).mean()),
        bits_flipped=int(first.sum()),
        images_flipped=int((~same).sum()),
    )
    for name, value in (
        ("logits", parity.max_abs),
        ("anomaly_score", parity.score_max_abs),
        ("active_macs", _largest(want["active_macs"][same], got["active_macs"][same])),
    ):
        if not value <= TOLERANCE:
            raise VerificationError(
                f"{name} differs from PyTorch by {value:.3g}; at most {TOLERANCE:g} is allowed"
            )
    return parity


def verify_flags(got: Outputs, calibration: Calibration | None) -> None:
    """Check the flags of a finished graph against its own scores and the threshold that its manifest will name.

    Args:
        got: what the finished graph answered.
        calibration: where its threshold comes from; ``None``: it must never flag.

    Raises:
        VerificationError: a flag is raised or missing where the score says otherwise.
    """
    predicted = got[LOGITS].argmax(axis=1)
    never = np.full(len(predicted), np.finfo(np.float32).max, np.float32)
    thresholds = never if calibration is None else calibration.thresholds_of(predicted)
    wrong = got[FLAG] != ~(got[SCORE] <= thresholds[:, None])
    if wrong.any():
        raise VerificationError(
            f"{int(wrong.sum())} of {len(wrong)} flags do not follow from their scores and the thresholds "
            f"{', '.join(f'{value:g}' for value in np.unique(thresholds))}"
        )


def verify_unchanged(before: Outputs, after: Outputs) -> None:
    """Check that a finished file answers as the graph that it was made from; flags may come from another threshold.

    To the bit: give both whole batches of the same images.

    Args:
        before: what the graph answered about these images and perhaps more.
        after: what the file answers.

    Raises:
        VerificationError: an output is another one; names it.
    """
    for name, values in after.items():
        wanted = before[name][: len(values)]
        if name != FLAG and not np.array_equal(wanted, values, equal_nan=values.dtype.kind == "f"):
            raise VerificationError(f"{name} of the finished file is not what the graph answered")


def verify_same(want: Outputs, got: Outputs) -> None:
    """Check that a graph answers as it did before it was given another input.

    Raises:
        VerificationError: an output differs by more than `TOLERANCE`; names it.
    """
    for name, values in want.items():
        largest = _largest(values, got[name])
        if not largest <= TOLERANCE:
            raise VerificationError(f"{name} differs by {largest:.3g} from the graph with float32 input")


def verify_untouched(alone: Outputs, observed: Outputs) -> None:
    """Check that observers leave the answers of a network as they are, to the bit.

    Raises:
        VerificationError: a logit is another one.
    """
    differs = (alone[LOGITS] != observed[LOGITS]).any(axis=1)
    if differs.any():
        largest = _largest(alone[LOGITS], observed[LOGITS])
        raise VerificationError(
            f"with observers, {int(differs.sum())} of {len(differs)} answers are not to the bit those of the network "
            f"alone, by up to {largest:.3g}: the engine computes it in another way then; export without --observe"
        )


def _first_differences(differs: npt.NDArray[np.bool_], layout: PathLayout) -> npt.NDArray[np.bool_]:
    """Of the bits ``[N, P]`` that differ, those of each image's first layer that does: the others follow from them."""
    first = differs.copy()
    earlier = np.zeros((len(differs), 1), dtype=np.bool_)
    for bits in layout.split(first):
        bits &= ~earlier
        earlier |= bits.any(axis=1, keepdims=True)
    return first


def _refuse_far_bits(differs: npt.NDArray[np.bool_], expected: Reference, layout: PathLayout) -> None:
    far = differs & (expected.margins > MARGIN)
    if far.any():
        broken = next(
            layer.name for layer, bits in zip(layout.layers, layout.split(far), strict=True) if bits.any()
        )
        raise VerificationError(
            f"{int(far.sum())} path bits differ from PyTorch though what decides on them is farther than "
            f"{MARGIN:g} from where they flip; the first layer that breaks is {broken}"
        )


def _largest(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def _largest_relative(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> float:
    wanted = a.astype(np.float64)
    return float((np.abs(wanted - b.astype(np.float64)) / np.maximum(1.0, np.abs(wanted))).max())
