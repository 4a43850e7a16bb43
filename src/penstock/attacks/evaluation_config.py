"""What an evaluation of a detector does: a frozen dataclass, read from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.attacks.adaptive import METHODS
from penstock.attacks.baselines import NAMES, NEIGHBOURS
from penstock.detect.recipe import Recipe
from penstock.errors import ConfigurationError, InvalidArgumentError
from penstock.nn.detecting import FIT_IMAGES

OWN = "path"  # the name of the detector that is evaluated, beside the baselines'
UNAWARE = ("fgsm", "pgd", "autoattack", "cw", "deepfool", "square", "transfer")  # of the detector
CHANGES = ("signs", "jpeg", "blur", "gaussian", "contrast", "pixelate")  # of honest images
CONTROLS = (*CHANGES, "mnist", "caltech25")
ADAPTIVE = METHODS
ATTACKS = (*UNAWARE, *ADAPTIVE)  # on the answer
# At this detector or at this network's costs: other scores have no part in it.
AIMED = (*ADAPTIVE, "inflation")
KINDS = (*UNAWARE, *CONTROLS, *ADAPTIVE, "inflation")
LONG = ("square", "autoattack")  # pieces of work, after the adaptive attacks
WITH_EPS = frozenset(("fgsm", "pgd", "autoattack", "square", "transfer", "signs", *ADAPTIVE))
# Smallest values; `lid` asks for neighbours of an image besides itself.
LEAST = {"images": 1, "clean": 0, "fit": NEIGHBOURS + 1, "seed": 0} | dict.fromkeys(
    (
        *("pgd_steps", "auto_steps", "auto_restarts", "queries", "cw_steps", "cw_searches"),
        *("adaptive_steps", "adaptive_restarts"),
    ),
    1,
)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is attacked, how, and what is compared.

    Attributes:
        images: test images to attack, the first so many of them in random order.
        counts: by kind, of attacks and controls, how many of those that are read right are changed, the first so many,
            or how many of another data set are shown, where all would take too long; results say how many each had,
            and their intervals are as wide as that makes them.
        clean: test images for false-positive rates, the first so many, those that are attacked among them; 0 takes all.
            `penstock.attacks.baselines` says which baseline judges fewer.
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
        self._check_names()
        self._check_numbers()
        self._check_rates()

    def _check_names(self) -> None:
        listed = {"kinds": KINDS, "baselines": NAMES, "counts": KINDS}
        for name, known in listed.items():
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown:
                raise ConfigurationError(f"no {name} {unknown[0]!r}; there are {', '.join(known)}")
        if not self.kinds:
            raise ConfigurationError(
                f"kinds is empty, so that nothing would be shown; name some of {', '.join(KINDS)}"
            )
        if not self.eps and WITH_EPS.intersection(self.kinds):
            raise ConfigurationError("eps is empty; name at least one bound in grey levels, 8 for instance")
        if self.detector:
            try:
                Recipe.parse(self.detector)
            except InvalidArgumentError as error:
                raise ConfigurationError(f"detector is {self.detector!r}: {error}") from None

    def _check_numbers(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for kind, count in self.counts.items():
            if not 1 <= count <= self.images:
                raise ConfigurationError(
                    f"counts of {kind} is {count}; it must be between 1 and images, {self.images}"
                )
        if 0 < self.clean < self.images:
            raise ConfigurationError(
                f"clean is {self.clean}; the {self.images} images that are attacked are among them: take as many, or 0"
            )
        if any(count < 1 for count in self.supervised):
            raise ConfigurationError(f"supervised is {list(self.supervised)}; counts of images start at 1")

    def _check_rates(self) -> None:
        if not all(0 < eps < 255 for eps in self.eps):
            raise ConfigurationError(f"eps is {list(self.eps)}; grey levels between 0 and 255 are needed")
        if not 0 < self.fpr < 1:
            raise ConfigurationError(
                f"fpr is {self.fpr}; a false-positive rate lies between 0 and 1: 0.05, say"
            )

    @property
    def plan(self) -> tuple[tuple[str, float], ...]:
        """Kind and bound in grey levels, 0 where there is none, of each piece of work, in order."""
        kinds = [kind for kind in self.kinds if kind != "transfer" or self.other]
        return tuple((kind, eps) for kind in kinds for eps in (self.eps if kind in WITH_EPS else (0.0,)))

    @property
    def order(self) -> tuple[tuple[str, float], ...]:
        """The plan as it is worked on: the longest pieces first, so that processes that share them end together.

        Adaptive attacks come bound by bound: each goes on from what it won within the bound before.
        """

        def place(piece: tuple[str, float]) -> tuple[int, float]:
            kind, eps = piece
            if kind in ADAPTIVE:
                return 0, eps
            return (1 if kind in LONG else 2), 0.0

        return tuple(sorted(self.plan, key=place))

    def bound_before(self, kind: str, eps: float) -> float | None:
        """The next smaller bound of an adaptive attack; none of the smallest, or of another kind."""
        return max((each for each in self.eps if each < eps), default=None) if kind in ADAPTIVE else None

    def shown(self, kind: str) -> int:
        """How many images an attack or control gets at most."""
        return self.counts.get(kind, self.images)


def named(kind: str, eps: float) -> str:
    """What a piece of work is called in files and figures."""
    return f"{kind}-{eps:g}" if eps else kind
