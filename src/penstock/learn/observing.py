"""Teach observers to say which class a network has seen so far.

Only the observers learn, from what they see of each training image: a stage's output averaged over space, which the
frozen network gives once. What they learn is the paper's bound on the mutual information between path and class
(`penstock.nn.losses`),

    L = sum_o CE(W_o z_o, y),       z_o = SemHash(y_o)      the code of observer o

so that a path tells the class stage by stage, and an input whose path tells another class than the network, or none,
stands out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from penstock.learn.observe_config import ObserveConfig
from penstock.nn.inference import Levels
from penstock.nn.losses import LinearProbes
from penstock.nn.observers import Observer
from penstock.nn.path_network import PathNetwork


def teach(
    network: PathNetwork,
    observers: Sequence[Observer],
    images: Levels,
    labels: npt.NDArray[np.int64],
    classes: int,
    config: ObserveConfig,
) -> tuple[float, ...]:
    """Teach a network's observers.

    Args:
        network: in evaluation mode; of it nothing but the observers changes.
        observers: those of the network.
        images: ``[N, C, H, W]`` grey levels of training images.
        labels: ``[N]`` their classes.
        classes: how many there are.
        config: how long and how fast.

    Returns:
        of each observer, how often a linear probe tells the class from its code.
    """
    seen = look(network, observers, images)
    known = torch.from_numpy(labels)
    torch.manual_seed(config.seed)
    probes = LinearProbes([observer.bits for observer in observers], classes)
    for observer, means in zip(observers, seen, strict=True):
        _centre(observer, means)
    learned = [p for module in (*observers, probes) for p in module.parameters()]
    optimizer = torch.optim.AdamW(learned, config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    for observer in observers:
        observer.gate.train().normalize.eval()  # its statistics are those of all images already
    for _ in range(config.steps):
        which = torch.randint(len(known), (config.batch_size,))
        codes = [observer(means[which])[0] for observer, means in zip(observers, seen, strict=True)]
        loss = probes(codes, known[which])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for observer in observers:
        observer.eval()
    with torch.no_grad():
        return tuple(
            float((head(observer(means)[0]).argmax(1) == known).float().mean())
            for observer, head, means in zip(observers, probes.heads, seen, strict=True)
        )


@torch.no_grad()
def _centre(observer: Observer, seen: Tensor) -> None:
    """Let an observer's normalisation know mean and variance of what it sees."""
    norm = cast(nn.BatchNorm1d, observer.gate.normalize)
    cast(Tensor, norm.running_mean).copy_(seen.mean(dim=(0, 2, 3)))
    cast(Tensor, norm.running_var).copy_(seen.var(dim=(0, 2, 3), correction=0))


@torch.no_grad()
def look(
    network: PathNetwork, observers: Sequence[Observer], images: Levels, batch: int = 250
) -> list[Tensor]:
    """What each observer sees of the images, averaged over space: ``[N, C_o, 1, 1]`` each."""
    seen: list[list[Tensor]] = [[] for _ in observers]

    def keep(place: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[place].append(inputs[0].mean(dim=(2, 3), keepdim=True))

    hooks = [
        observer.register_forward_pre_hook(partial(keep, place)) for place, observer in enumerate(observers)
    ]
    try:
        for start in range(0, len(images), batch):
            network(torch.from_numpy(images[start : start + batch]).float() / 255)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(parts) for parts in seen]
