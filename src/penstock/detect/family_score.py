"""The fitted score of a recipe: what detectors learn, exported graphs compute, and ``Explain`` cuts up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.detect.combined import SHAPES, CombinedScore
from penstock.detect.disagreement import ClassDisagreement
from penstock.detect.doubt import DoubtScore
from penstock.detect.features import PathFeatures
from penstock.detect.grouping import Floats
from penstock.detect.recipe import (
    DEFAULT,
    DISAGREEMENT,
    DOUBT,
    LIKELIHOOD,
    MAHALANOBIS,
    ROUTER_GATE,
    SUB_ARCHITECTURE,
    Recipe,
)
from penstock.detect.router_gate import GateDisagreement
from penstock.detect.surprisal import Surprisal, combine
from penstock.errors import InvalidArgumentError
from penstock.paths import PathSet

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class FamilyScore:
    """Everything that a recipe's score needs.

    Attributes:
        recipe: which parts, and how they become one.
        combined: likelihood and distance; always there, because the classes that a path is near to are seen by it.
        disagreement: if the recipe asks for it, like those below.
        doubt: where honest doubts lie.
        router_gate: which disagreement of routers and gates is usual.
        surprisals: one map for each part, where they are combined by p-values.
        sub_architecture: disagreement by sub-architectures, if the recipe asks for it.
    """

    recipe: Recipe
    combined: CombinedScore
    disagreement: ClassDisagreement | None = None
    doubt: DoubtScore | None = None
    router_gate: GateDisagreement | None = None
    surprisals: tuple[Surprisal, ...] = ()
    sub_architecture: ClassDisagreement | None = None

    @classmethod
    def fit(
        cls,
        recipe: Recipe,
        honest: PathFeatures,
        ranking: PathFeatures,
        classes: int,
        rank: int,
        masks: PathSet | None = None,
    ) -> FamilyScore:
        """Learn from honest inputs.

        Args:
            recipe: what to learn.
            honest: inputs to fit to.
            ranking: inputs that say how unsure the network is, and how surprising a score.
            classes: number of classes.
            rank: directions of the gate logits' covariance to keep, at most.
            masks: the classes' sub-architectures, for recipes that compare with them.

        Raises:
            InvalidArgumentError: doubts or sub-architectures are asked for and not known.
        """
        wanted = recipe.parts
        parts = cls(
            Recipe(wanted),
            CombinedScore.fit(honest, classes, rank),
            ClassDisagreement.of_prototypes(honest, classes) if DISAGREEMENT in wanted else None,
            DoubtScore.fit(doubts_of(ranking)) if DOUBT in wanted else None,
            GateDisagreement.fit(honest, classes) if ROUTER_GATE in wanted else None,
            sub_architecture=(
                ClassDisagreement.of_sub_architectures(_known(masks), honest)
                if SUB_ARCHITECTURE in wanted
                else None
            ),
        )
        surprisals = (Surprisal.fit(part) for part in parts.parts(ranking).T) if recipe.by_surprisal else ()
        return replace(parts, recipe=recipe, surprisals=tuple(surprisals))

    def parts(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N, K]``: the recipe's parts in its order, each in standard deviations of honest inputs.

        Raises:
            InvalidArgumentError: the features have another number of filters or an unknown class, or do not say how
                unsure the network is.
        """
        both = self.combined.components(features)
        found: dict[str, Floats] = {LIKELIHOOD: both[:, 0], MAHALANOBIS: both[:, 1]}
        if self.disagreement is not None:
            found[DISAGREEMENT] = self.disagreement.score(features)
        if self.doubt is not None:
            found[DOUBT] = self.doubt.score(doubts_of(features))
        if self.router_gate is not None:
            found[ROUTER_GATE] = self.router_gate.score(features)
        if self.sub_architecture is not None:
            found[SUB_ARCHITECTURE] = self.sub_architecture.score(features)
        return np.column_stack([found[name] for name in self.recipe.parts]).astype(np.float32)

    def score(self, features: PathFeatures) -> npt.NDArray[np.float32]:
        """``[N]``, larger is stranger, in the precision that graphs have.

        Raises:
            InvalidArgumentError: see `parts`.
        """
        parts = self.parts(features)
        if not self.recipe.by_surprisal:
            mean: npt.NDArray[np.float32] = parts.mean(axis=1, dtype=np.float64).astype(np.float32)
            return mean
        return combine(self.surprised(parts), self.recipe.how).astype(np.float32)

    def surprised(self, parts: npt.NDArray[np.float32]) -> Floats:
        """The surprisals ``[N, K]`` of the parts ``[N, K]``."""
        return np.stack([one(part) for one, part in zip(self.surprisals, parts.T, strict=True)], axis=1)

    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Everything, flat: the tables of `penstock.detect.combined`, then ``disagreement.usual`` and so on."""
        found = self.combined.arrays()
        for prefix, tables in self._more():
            found |= {f"{prefix}.{name}": np.asarray(table, np.float32) for name, table in tables.items()}
        return found

    @classmethod
    def from_arrays(cls, name: str, arrays: Arrays) -> FamilyScore:
        """Read what `arrays` gave.

        Args:
            name: of the recipe.
            arrays: by name.

        Raises:
            InvalidArgumentError: a table is missing, not finite, or does not fit the others.
        """
        recipe = Recipe.parse(name)
        combined = CombinedScore.from_arrays(arrays)
        classes, filters = combined.classes, combined.filters
        wide, column = (classes, filters), (classes, 1)
        read = _Reader(arrays)
        disagreement = doubt = router_gate = sub_architecture = None
        linear = {
            "usual": (filters,),
            "slope": wide,
            "constant": (classes,),
            "location": column,
            "spread": column,
        }
        if DISAGREEMENT in recipe.parts:
            disagreement = ClassDisagreement(**read.tables("disagreement", linear))
        if SUB_ARCHITECTURE in recipe.parts:
            sub_architecture = ClassDisagreement(**read.tables("sub_architecture", linear))
        if DOUBT in recipe.parts:
            found = read.tables("doubt", {"location": (), "spread": ()})
            doubt = DoubtScore(float(found["location"]), float(found["spread"]))
        if ROUTER_GATE in recipe.parts:
            shapes = {"usual": wide, "surprise": wide, "location": column, "spread": column}
            router_gate = GateDisagreement(**read.tables("router_gate", shapes))
        surprisals = tuple(read.surprisal(place) for place in range(len(recipe.parts) * recipe.by_surprisal))
        return cls(recipe, combined, disagreement, doubt, router_gate, surprisals, sub_architecture)

    @classmethod
    def of_default(cls, arrays: Arrays) -> FamilyScore:
        """The default detector's, from the tables that checkpoints hold."""
        return cls.from_arrays(DEFAULT, {name: arrays[name] for name in SHAPES if name in arrays})

    def _more(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for prefix in ("disagreement", "doubt", "router_gate", "sub_architecture"):
            tables = getattr(self, prefix)
            if tables is not None:
                yield prefix, vars(tables)
        for place, one in enumerate(self.surprisals):
            yield f"surprisal{place}", vars(one)


@dataclass(frozen=True)
class _Reader:
    """Takes tables out of flat arrays, and looks at their shapes."""

    arrays: Arrays

    def tables(
        self, prefix: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, npt.NDArray[np.float32]]:
        return {name: self._one(f"{prefix}.{name}", shape) for name, shape in shapes.items()}

    def surprisal(self, place: int) -> Surprisal:
        knots = self._one(f"surprisal{place}.knots", None)
        bends = self._one(f"surprisal{place}.bends", knots.shape)
        return Surprisal(knots, bends, float(self._one(f"surprisal{place}.start", ())))

    def _one(self, name: str, shape: tuple[int, ...] | None) -> npt.NDArray[np.float32]:
        if name not in self.arrays:
            raise InvalidArgumentError(f"detector state has no {name!r}")
        found: npt.NDArray[np.float32] = self.arrays[name]
        if found.dtype != np.float32 or not np.isfinite(found).all():
            raise InvalidArgumentError(f"detector state {name!r} must be finite float32; it is {found.dtype}")
        if name.endswith(".spread") and found.min() <= 0:
            raise InvalidArgumentError(f"detector state {name!r} holds {found.min()}; it must be above 0")
        if shape is not None and found.shape != shape:
            raise InvalidArgumentError(f"detector state {name!r} has shape {found.shape}; {shape} is needed")
        return found


def _known(masks: PathSet | None) -> PathSet:
    if masks is None:
        raise InvalidArgumentError(
            f"{SUB_ARCHITECTURE} compares paths with the classes' sub-architectures, which are not given: name the run "
            "of `penstock disentangle` that found them"
        )
    return masks


def doubts_of(features: PathFeatures) -> npt.NDArray[np.float32]:
    """How unsure the network is, ``[N]``.

    Raises:
        InvalidArgumentError: the features do not say.
    """
    if features.doubt is None:
        raise InvalidArgumentError(
            "the features do not say how unsure the network is: make them with PathFeatures.of"
        )
    return features.doubt
