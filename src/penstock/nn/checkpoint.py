"""Checkpoints: one safetensors file that holds all that export, evaluation and detection need.

    gated.*        state of the `GatedNetwork`
    dense.*        state of the dense network that it came from, for ``--dense``
    detector.*     state of the detector, fitted on training images
    calibration    anomaly scores of images that the network did not learn from, in double precision

and in the file's metadata, as JSON, which backbone, classes and gates these weights belong to, the configuration of
the run and its figures. No pickle is involved, so a checkpoint from a stranger is data, not code. Images are never
stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from penstock import zoo
from penstock.detect import FamilyScore
from penstock.detect.recipe import DEFAULT
from penstock.errors import NotFoundError, UnsupportedError
from penstock.files import sha256
from penstock.nn.assembly import Member, assemble
from penstock.nn.backbones import build_backbone
from penstock.nn.path_network import PathNetwork
from penstock.nn.run_folders import refuse_run_without_checkpoint
from penstock.nn.tensor_file import prefixed, read_tensors, with_prefix, write_tensors
from penstock.records import read_record

SCHEMA = 2
CHECKPOINT_FILE = "checkpoint.safetensors"
ZOO_PREFIX = "zoo:"
TIMING_PREFIX = "timing:"


@dataclass(frozen=True, eq=False, kw_only=True)
class Checkpoint:
    """A decoupled network with everything that belongs to it.

    Attributes:
        backbone: name of the architecture.
        class_names: one per logit.
        input_shape: ``(C, H, W)`` of one image.
        members: how the network was put together.
        network: the network with paths, in evaluation mode.
        dense: the dense network that it came from, in evaluation mode.
        detector: arrays of the fitted detector, `penstock.detect.FamilyScore.arrays`; empty if none was fitted.
        detector_name: its recipe.
        calibration: ``[N]`` anomaly scores of honest images that network and detector did not learn from (a cascade's
            threshold was set on them), without those that scores are ranked by; empty if there are none.
        config: configuration of the run, as JSON values.
        figures: what was measured, by name.
    """

    backbone: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    members: tuple[Member, ...]
    network: PathNetwork
    dense: nn.Module
    detector: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    detector_name: str = DEFAULT
    calibration: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    config: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> FamilyScore:
        """The detector's.

        Raises:
            InvalidArgumentError: none was fitted.
        """
        return FamilyScore.from_arrays(self.detector_name, self.detector)

    def save(self, path: Path) -> None:
        """Write the checkpoint in one step."""
        tensors = prefixed("gated", self.network.state_dict()) | prefixed("dense", self.dense.state_dict())
        tensors |= prefixed(
            "detector", {name: torch.from_numpy(value) for name, value in self.detector.items()}
        )
        tensors["calibration"] = torch.from_numpy(self.calibration)
        about = {
            "schema": SCHEMA,
            "backbone": self.backbone,
            "class_names": self.class_names,
            "input_shape": self.input_shape,
            "detector": self.detector_name,
            "members": [asdict(member) for member in self.members],
            "config": dict(self.config),
            "figures": dict(self.figures),
        }
        write_tensors(path, about, tensors)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file.

    Raises:
        NotFoundError: there is no such file.
        BundleError: damaged, not a checkpoint of Penstock, or of another schema.
    """
    if not path.is_file():
        raise NotFoundError(f"no checkpoint file {path}")
    return read_tensors(path, SCHEMA, _restore, what="a usable Penstock checkpoint", remedy="train again")


def find_source(source: str) -> Path:
    """The checkpoint file that a SOURCE of the command line means.

    Args:
        source: a run folder, a checkpoint file, or ``zoo:NAME``.

    Raises:
        NotFoundError: there is nothing of that name, or a run that has not ended.
        UnsupportedError: it is a timing source, ``timing:NETWORK``, which no file holds, or a run of another kind.
    """
    if source.startswith(TIMING_PREFIX):
        raise UnsupportedError(
            f"{source} is built anew each time and has no checkpoint file: name a run folder, a checkpoint file, or "
            "zoo:NAME"
        )
    if source.startswith(ZOO_PREFIX):
        return zoo.find(source.removeprefix(ZOO_PREFIX)).file
    path = Path(source)
    file = path / CHECKPOINT_FILE if path.is_dir() else path
    if not file.is_file():
        refuse_run_without_checkpoint(path)
        raise NotFoundError(f"no run folder, checkpoint file or zoo entry {source!r}: nothing at {file}")
    return file


def load_source(source: str, *, detector: bool = True) -> tuple[Checkpoint, dict[str, str]]:
    """Load what a SOURCE means, and say what it was: its name, without the folders of this machine, and its hash.

    Args:
        source: as `find_source` takes it, or a timing source (`penstock.nn.timing`), which is built.
        detector: whether one is wanted, which is two thirds of building a timing source; files have theirs in any case.
    """
    if source.startswith(TIMING_PREFIX):
        # Here, because only it needs torchvision, and it needs this module.
        from penstock.nn.timing import load_timing_source

        return load_timing_source(source, detector=detector)
    file = find_source(source)
    name = source if source.startswith(ZOO_PREFIX) else Path(source).resolve().name
    return load_checkpoint(file), {"name": name, "sha256": sha256(file)}


def _restore(about: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    members = tuple(read_record(Member, _renamed(member)) for member in about["members"])
    input_shape = tuple(about["input_shape"])
    dense = build_backbone(about["backbone"], len(about["class_names"]))
    dense.load_state_dict(with_prefix("dense", tensors))
    network = assemble(dense.eval(), torch.zeros(1, *input_shape), members)
    network.load_state_dict(with_prefix("gated", tensors))
    return Checkpoint(
        backbone=about["backbone"],
        class_names=tuple(about["class_names"]),
        input_shape=input_shape,
        members=members,
        network=network.eval(),
        dense=dense,
        detector={name: value.numpy() for name, value in with_prefix("detector", tensors).items()},
        detector_name=about.get("detector", DEFAULT),  # older files have no other
        calibration=tensors["calibration"].numpy(),
        config=about["config"],
        figures=about["figures"],
    )


def _renamed(member: dict[str, Any]) -> dict[str, Any]:
    """A member of a file that says ``static_start`` of its gates, as all did that were written before `STARTS`."""
    gate = dict(member["gate"] or {})
    if "static_start" not in gate:
        return member
    gate["start"] = "static" if gate.pop("static_start") else "uniform"
    return member | {"gate": gate}
