"""The search for class masks: steps of fixed length against the gradient, each class for itself.

For class ``c`` and layer ``l``, with the loss of `penstock.nn.mask_losses` (findpath.py of the release):

    m[c, l]  <-  m[c, l] - step_size * g / |g|_2,     g = d loss_c / d m[c, l],     m[c, l] ~ N(initial, 1) at first

No momentum, no decay. ``loss_c`` holds only class ``c``'s samples and masks, so the gradient of the sum over classes
is every class's own, and one backward pass serves all of them.

The state, scores and number of steps, is kept in one file. A step depends on the seed, its number and the scores
alone, so a search that was killed ends as one that was not, bit for bit on a CPU with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from penstock.files import write_atomic
from penstock.learn.class_streams import ClassStreams, class_generator
from penstock.nn.class_masks import MaskedNetwork
from penstock.nn.mask_losses import MaskLoss

KEEP_EVERY = 20  # steps
_START, _NOISE = 2, 3  # what a generator is for; streams use 1 and 4


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How a search proceeds.

    Attributes:
        steps: updates of each class's masks.
        step_size: length of one update in one layer.
        initial: mean of the scores at the start.
        classes_at_once: classes whose images run together.
        seed: of everything random.
        precision: ``32-true`` or ``bf16-mixed``.
    """

    steps: int
    step_size: float = 0.1
    initial: float = 0.0
    classes_at_once: int = 10
    seed: int = 0
    precision: str = "32-true"


def search(
    network: MaskedNetwork,
    loss: MaskLoss,
    streams: ClassStreams,
    pace: Pace,
    state: Path,
    *,
    labels: Sequence[int] | None = None,
    stepped: Callable[[int, float], None] = lambda _, __: None,
) -> None:
    """Search, or go on where a killed search stopped, and leave the scores in ``network``.

    Args:
        network: its scores are learned.
        loss: one loss per class.
        streams: training images.
        pace: how many steps of which length.
        state: file that keeps what was reached.
        labels: classes to search for; default all. The others keep the scores that they start with.
        stepped: told the number of steps done and the mean loss.
    """
    wanted = list(range(network.classes)) if labels is None else list(labels)
    done = _restore(network, state, pace)
    for step in range(done, pace.steps):
        value = _step(network, loss, streams, pace, wanted, step)
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == pace.steps:
            write_atomic(state, save({"scores": network.scores.cpu()}, metadata={"steps": str(step + 1)}))
        stepped(step + 1, value)


def initial_scores(classes: int, bits: int, pace: Pace) -> Tensor:
    """``[classes, P]`` scores at the start; a class's row depends on the seed and the class alone."""
    rows = [
        torch.randn(bits, generator=class_generator(pace.seed, label, _START)) for label in range(classes)
    ]
    return torch.stack(rows) + pace.initial


def _restore(network: MaskedNetwork, state: Path, pace: Pace) -> int:
    if not state.is_file():
        network.scores = initial_scores(network.classes, network.layout.bits, pace)
        return 0
    with safe_open(state, framework="pt") as file:
        network.scores = file.get_tensor("scores")
        return int(file.metadata()["steps"])


def _step(
    network: MaskedNetwork, loss: MaskLoss, streams: ClassStreams, pace: Pace, wanted: list[int], step: int
) -> float:
    device = network.masks[0].scores.device
    total = 0.0
    for group in (
        wanted[at : at + pace.classes_at_once] for at in range(0, len(wanted), pace.classes_at_once)
    ):
        batch = streams.step(step, group).to(device)
        noise = [class_generator(pace.seed, label, _NOISE, step) for label in group]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=pace.precision == "bf16-mixed"):
            losses = loss(network, batch, noise)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        total += float(losses.detach().sum())
    with torch.no_grad():
        for mask in network.masks:
            if mask.scores.grad is not None:  # the loss may not reach a layer whose output nothing reads
                mask.scores.sub_(F.normalize(mask.scores.grad, dim=1), alpha=pace.step_size)
                mask.scores.grad = None
    return total / len(wanted)
