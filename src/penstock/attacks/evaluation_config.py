"""What an evaluation of a detector does: a frozen dataclass, read from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.attacks.adaptive import METHODS
from penstock.attacks.baselines import NAMES
from penstock.detect.recipe import Recipe
from penstock.errors import ConfigurationError, InvalidArgumentError
from penstock.nn.detecting import FIT_IMAGES

OWN = "path"  # the name of the detector that is evaluated, beside the baselines'
UNAWARE = ("fgsm", "pgd", "autoattack", "cw", "deepfool", "square", "transfer")  # of the detector
CHANGES = ("signs", "jpeg", "blur", "gaussian", "contrast", "pixelate")  # of honest images
CONTROLS = (*CHANGES, "mnist", "caltech25")
ADAPTIVE = METHODS
ATTACKS = (*UNAWARE, *ADAPTIVE)  # on the answer
KINDS = (*UNAWARE, *CONTROLS, *ADAPTIVE, "inflation")
WITH_EPS = frozenset(("fgsm", "pgd", "autoattack", "square", "transfer", "signs", *ADAPTIVE))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is attacked, how, and what is compared.

    Attributes:
        images: test images to attack, the first so many.
        counts: by kind, how many of those that are read right are attacked, the first so many, where all would take too
            long; results say how many each attack had, and their intervals are as wide as that makes them.
        clean: test images for false-positive rates, the first so many, those that are attacked among them; 0 takes all.
        fit: training images that baselines are fitted on, at most; by default all that the path detector is fitted on.
            `penstock.attacks.baselines` says which takes fewer.
        kinds: attacks and controls, of `KINDS`.
        eps: bounds in grey levels of 255, for those that have one.
        baselines: of `penstock.attacks.baselines.NAMES`.
        other: source of another network, whose adversarial images are transferred; without it ``transfer`` is left out.
        pgd_steps: of PGD.
        auto_steps: of each adaptive PGD in AutoAttack.
        auto_restarts: of each adaptive PGD in AutoAttack.
        queries: of Square.
        cw_steps: of Adam in each search of Carlini and Wagner's attack.
        cw_searches: of that attack, steps of the bisection; `penstock.attacks.carlini` says how far these go.
        adaptive_steps: of each adaptive attack and of compute inflation.
        adaptive_restarts: of each adaptive attack.
        detector: name of a recipe, `penstock.detect.recipe`; empty: the source's own.
        sub_architectures: run of a disentanglement, for a detector that compares with these; empty: none.
        observe: attack the dense network that the source came from, with its gates as observers.
        supervised: numbers of images per class that supervised detectors learn from; none leaves them out.
        fpr: rate at which adaptive attacks must stay unflagged.
        seed: of all random choices.
    """

    images: int = 1000
    counts: dict[str, int] = field(default_factory=dict)
    clean: int = 0
    fit: int = FIT_IMAGES
    kinds: tuple[str, ...] = KINDS
    eps: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    baselines: tuple[str, ...] = NAMES
    other: str = ""
    pgd_steps: int = 100
    auto_steps: int = 100
    auto_restarts: int = 5
    queries: int = 5000
    cw_steps: int = 100
    cw_searches: int = 4
    adaptive_steps: int = 1000
    adaptive_restarts: int = 2
    detector: str = ""
    sub_architectures: str = ""
    observe: bool = False
    supervised: tuple[int, ...] = (1, 5, 10)
    fpr: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        listed = {"kinds": KINDS, "baselines": NAMES, "counts": KINDS}
        for name, known in listed.items():
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown:
                raise ConfigurationError(f"no {name} {unknown[0]!r}; there are {', '.join(known)}")
        for name in ("images", "fit", "pgd_steps", "adaptive_steps", "adaptive_restarts"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for kind, count in self.counts.items():
            if not 1 <= count <= self.images:
                raise ConfigurationError(
                    f"counts of {kind} is {count}; it must be between 1 and images, {self.images}"
                )
        if 0 < self.clean < self.images:
            raise ConfigurationError(
                f"clean is {self.clean}; the {self.images} images that are attacked are among them: take as many, or 0"
            )
        if self.detector:
            try:
                Recipe.parse(self.detector)
            except InvalidArgumentError as error:
                raise ConfigurationError(str(error)) from None
        if any(count < 1 for count in self.supervised):
            raise ConfigurationError(f"supervised is {list(self.supervised)}; counts of images start at 1")
        if not all(0 < eps < 255 for eps in self.eps):
            raise ConfigurationError(f"eps is {list(self.eps)}; grey levels between 0 and 255 are needed")

    @property
    def plan(self) -> tuple[tuple[str, float], ...]:
        """Kind and bound in grey levels, 0 where there is none, of each piece of work, in order."""
        kinds = [kind for kind in self.kinds if kind != "transfer" or self.other]
        return tuple((kind, eps) for kind in kinds for eps in (self.eps if kind in WITH_EPS else (0.0,)))


def named(kind: str, eps: float) -> str:
    """What a piece of work is called in files and figures."""
    return f"{kind}-{eps:g}" if eps else kind
