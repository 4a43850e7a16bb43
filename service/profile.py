"""What the recent answers of one model version looked like."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from penstock.bundle import Manifest
from penstock.service.answers import Answer

ROUTED = "routed"  # the lowering of models with prototypes


@dataclass(frozen=True, kw_only=True)
class ClassProfile:
    """The images of the window that were predicted to be of one class."""

    name: str
    count: int
    flag_rate: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Figures over a window of recent images; zeros while there are none.

    Attributes:
        window: number of images that the figures cover.
        active_macs: mean share of the dense network's MACs.
        flag_rate: share of the images that were flagged.
        layer_density: mean share of open filters by layer name, in network order.
        classes: the classes that were predicted at least once, in class order.
        prototype_counts: of a routed model, by layer name: how many images took each prototype, the most used
            first.
    """

    window: int
    active_macs: float
    flag_rate: float
    layer_density: dict[str, float]
    classes: tuple[ClassProfile, ...]
    prototype_counts: dict[str, tuple[int, ...]] = field(default_factory=dict)


class ProfileWindow:
    """Ring of the last ``size`` images' figures; paths are reduced to densities as they come.

    Args:
        manifest: gives the layers and the class names.
        size: number of images to remember.
    """

    def __init__(self, manifest: Manifest, size: int) -> None:
        self._layout = manifest.layout
        self._class_names = manifest.class_names
        self._seen = 0
        self._filters = np.array([layer.filters for layer in manifest.layout.layers])
        self._starts = np.cumsum(self._filters) - self._filters
        self._macs = np.zeros(size)
        self._flags = np.zeros(size, dtype=np.bool_)
        self._classes = np.zeros(size, dtype=np.int64)
        self._density = np.zeros((size, len(self._layout.layers)))
        # In a routed model a layer's code is one of a few. Each bit has a random weight, and a code's sum of them,
        # modulo 2^64, stands for it.
        self._routed = manifest.lowering == ROUTED
        self._weights = np.random.default_rng(0).integers(2**64, size=self._layout.bits, dtype=np.uint64)
        self._codes = np.zeros(self._density.shape if self._routed else (0, 0), dtype=np.uint64)

    def record(self, answer: Answer) -> None:
        """Take in the images of one answer, the oldest making room."""
        size = len(self._macs)
        places = (self._seen + np.arange(len(answer))) % size
        self._macs[places] = answer.active_macs[:, 0]
        self._flags[places] = answer.adversarial[:, 0]
        self._classes[places] = answer.logits.argmax(axis=1)
        # All layers at once: a loop over them takes longer than a small network.
        opened = np.add.reduceat(answer.path, self._starts, axis=1, dtype=np.int64)
        self._density[places] = opened / self._filters
        if self._routed:
            self._codes[places] = np.add.reduceat(answer.path * self._weights, self._starts, axis=1)
        self._seen += len(answer)

    def summary(self) -> Profile:
        """The figures of the window as it stands."""
        window = min(self._seen, len(self._macs))
        flags, classes = self._flags[:window], self._classes[:window]
        density = self._density[:window].mean(axis=0) if window else self._density[0]
        return Profile(
            window=window,
            active_macs=float(self._macs[:window].mean()) if window else 0.0,
            flag_rate=float(flags.mean()) if window else 0.0,
            layer_density={
                layer.name: float(value) for layer, value in zip(self._layout.layers, density, strict=True)
            },
            classes=tuple(
                ClassProfile(
                    name=self._class_names[index],
                    count=int((classes == index).sum()),
                    flag_rate=float(flags[classes == index].mean()),
                )
                for index in np.unique(classes)
            ),
            prototype_counts=self._prototype_counts(window) if self._routed else {},
        )

    def _prototype_counts(self, window: int) -> dict[str, tuple[int, ...]]:
        counts = (np.unique(codes, return_counts=True)[1] for codes in self._codes[:window].T)
        return {
            layer.name: tuple(sorted(map(int, found), reverse=True))
            for layer, found in zip(self._layout.layers, counts, strict=True)
        }
