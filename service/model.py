"""One version of a model, ready to answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tritonclient.grpc import model_config_pb2

from penstock.bundle import OUTPUTS, Manifest
from penstock.errors import UnsupportedError
from penstock.service.policy import FlagPolicy
from penstock.service.profile import ProfileWindow
from penstock.service.runs import Piece, Run
from penstock.service.scheduler import Scheduler
from penstock.service.session import Session
from penstock.service.statistics import Statistics
from penstock.service.tensors import TensorSpec


@dataclass(frozen=True, kw_only=True)
class Paths:
    """What a Penstock bundle has beyond a plain ONNX model.

    Attributes:
        manifest: what the bundle says of itself.
        profile: what its recent answers looked like.
        policy: what becomes of requests with flagged images.
    """

    manifest: Manifest
    profile: ProfileWindow
    policy: FlagPolicy


@dataclass(frozen=True, kw_only=True)
class Model:
    """One version of a model.

    Attributes:
        name: model name.
        version: version number.
        config: the configuration as this service honours it.
        inputs: what a request gives.
        outputs: what a request may ask for; the graph may have more.
        max_batch: largest batch of one request; 0 for a model whose tensors have no batch dimension.
        single: whether the graph takes one row of a batch, so that a batch is spread over several runs.
        labels: class names by output.
        stamp: of the files and the configuration that it was made of.
        session: the graph.
        scheduler: bounds its runs.
        statistics: what it has done.
        paths: of a Penstock bundle; ``None`` for a plain ONNX model.
    """

    name: str
    version: int
    config: model_config_pb2.ModelConfig
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    single: bool = False
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stamp: str
    session: Session
    scheduler: Scheduler[Piece, Run]
    statistics: Statistics
    paths: Paths | None = None

    @cached_property
    def inputs_by_name(self) -> Mapping[str, TensorSpec]:
        """What a request may give."""
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def outputs_by_name(self) -> Mapping[str, TensorSpec]:
        """What a request may ask for."""
        return {spec.name: spec for spec in self.outputs}

    @cached_property
    def required(self) -> frozenset[str]:
        """Names of the inputs that a request must give."""
        return frozenset(spec.name for spec in self.inputs if not spec.optional)

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself.

        Raises:
            UnsupportedError: this is no bundle.
        """
        return self._paths.manifest

    @property
    def profile(self) -> ProfileWindow:
        """What the recent answers of the bundle looked like.

        Raises:
            UnsupportedError: this is no bundle.
        """
        return self._paths.profile

    @property
    def policy(self) -> FlagPolicy:
        """What becomes of requests with flagged images.

        Raises:
            UnsupportedError: this is no bundle.
        """
        return self._paths.policy

    @property
    def shows_flags(self) -> bool:
        """Whether answers say which images are flagged."""
        return self.paths is not None and self.paths.policy is not FlagPolicy.SHADOW

    def check_paths(self) -> None:
        """Refuse what only bundles can be asked.

        Raises:
            UnsupportedError: this is no bundle.
        """
        _ = self._paths

    def computed(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the outputs to compute where these are wanted: a bundle's flags go with every answer."""
        return wanted if self.paths is None else OUTPUTS

    def close(self) -> None:
        """End all runs and take no more."""
        self.scheduler.close()
        self.session.stop()

    @property
    def _paths(self) -> Paths:
        if self.paths is None:
            raise UnsupportedError(
                f"model {self.name!r} is a plain ONNX model, without paths and flags; "
                "ask for one that `penstock export` made"
            )
        return self.paths
