"""A teacher: a frozen network whose softened answers a training follows.

Its answers to one view of the training images are computed once, when the first epoch that shows this view begins, and
kept: in memory, and on disk where a folder is given, so that later runs find them. A teacher that answers the very view
that the student sees, over many epochs, teaches best (Beyer et al., *Knowledge distillation: a good teacher is patient
and consistent*, CVPR 2022, https://arxiv.org/abs/2106.05237); keeping the answers makes this cost next to nothing.
"""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from penstock.files import write_atomic
from penstock.learn.batches import MIRROR_SEED, VIEW_SEED, Batches
from penstock.learn.config import TeacherConfig
from penstock.learn.start import load_network

logger = logging.getLogger(__name__)


class Teacher:
    """Answers of a frozen network to the views of a training set.

    It answers in bfloat16 whatever precision the student is trained in: softened answers are targets that need no more,
    and so the kept ones serve every run.

    Args:
        network: the teacher; put into evaluation mode.
        batches: the training set whose views it answers.
        folder: where answers are kept between runs, under a name that depends on the teacher's weights, the images
            and the augmentation; ``None`` keeps them in memory only.
    """

    def __init__(self, network: nn.Module, batches: Batches, folder: Path | None = None) -> None:
        self._network = network.eval().requires_grad_(False)
        self._batches = batches
        self._folder = folder / _fingerprint(network, batches) if folder else None
        self._answers: dict[int, Tensor] = {}

    def prepare(self, view: int, device: torch.device) -> None:
        """Have the answers to a view at hand; computed on ``device`` if they are not kept yet."""
        if view in self._answers:
            return
        # Every kind of device rounds in its own way, and a resumed run shall see what it saw before.
        kind = "" if device.type == "cpu" else f"-{device.type}"
        file = self._folder / f"view-{view:03}{kind}.npy" if self._folder else None
        known = _read(file, len(self._batches.labels)) if file else None
        if known is None:
            known = self._compute(view, device)
            if file:
                _keep(file, known)
        self._answers[view] = known

    def answers(self, view: int, index: Tensor) -> Tensor:
        """Logits ``[N, classes]`` float32 for the images of a prepared view, on the device of ``index``."""
        self._answers[view] = self._answers[view].to(index.device)  # once: they are small
        return self._answers[view][index].float()

    @torch.no_grad()
    def _compute(self, view: int, device: torch.device, batch: int = 500) -> Tensor:
        network = self._network.to(device)
        everything = torch.arange(len(self._batches.labels))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = [
                network(self._batches.show(view, index).to(device)).float().cpu()
                for index in torch.split(everything, batch)
            ]
        network.cpu()
        return torch.cat(logits).half()


def load_teacher(config: TeacherConfig, classes: int, data: Path | None) -> nn.Module:
    """The network that a configuration names, with its weights.

    Raises:
        InvalidArgumentError: no such backbone, or weights that do not fit it.
        NotFoundError: its weights are in none of the usual places.
    """
    return load_network(config.backbone, config.start, classes, data=data, normalize=config.normalize)


def _read(file: Path, count: int) -> Tensor | None:
    """Kept answers; ``None`` where there are none, or none that can be trusted."""
    try:
        found = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logger.info("answering again: %s cannot be read (%s)", file, error)
        return None
    if not isinstance(found, np.ndarray) or found.dtype != np.float16 or found.shape[:-1] != (count,):
        logger.info("answering again: %s holds something else", file)
        return None
    return torch.from_numpy(found)


def _keep(file: Path, answers: Tensor) -> None:
    """Write answers for later runs; this one has them, whether that works or not."""
    content = io.BytesIO()
    np.save(content, answers.numpy())
    try:
        write_atomic(file, content.getvalue())
    except OSError as error:
        logger.info("a teacher's answers are not kept: %s cannot be written (%s)", file, error)


def _fingerprint(network: nn.Module, batches: Batches) -> str:
    """A name that differs wherever the answers of one kind of device would."""
    augmentation = f"{batches.padding} {batches.flip} {VIEW_SEED} {MIRROR_SEED}"
    if batches.cutout:
        augmentation += f" {batches.cutout}"
    digest = hashlib.sha256(f"{type(network).__name__} {augmentation} {batches.images.shape}".encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    digest.update(batches.images.numpy().tobytes())
    return digest.hexdigest()[:24]
