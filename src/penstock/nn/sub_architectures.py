"""The result of a disentanglement in one safetensors file: the network, and every class's sub-architecture.

    dense.*     state of the network, which the search left as it was
    scores      ``[classes, P]`` float32; a filter with a score above 0 belongs to the class's path

and in the file's metadata, as JSON, which backbone and classes these belong to, the order of the layers, the
configuration of the run and its figures. There is no pickle and no image in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penstock.errors import NotFoundError
from penstock.nn.backbones import build_backbone
from penstock.nn.class_masks import MaskedNetwork, attach_class_masks
from penstock.nn.tensor_file import prefixed, read_tensors, with_prefix, write_tensors
from penstock.paths import PathLayout, PathSet

SCHEMA = 1
SUB_ARCHITECTURES_FILE = "sub_architectures.safetensors"


def sub_architectures_file(found: Path) -> Path:
    """The file of a disentanglement, of which the run folder or the file itself is named."""
    return found / SUB_ARCHITECTURES_FILE if found.is_dir() else found


@dataclass(frozen=True, eq=False, kw_only=True)
class SubArchitectures:
    """A network with one sub-architecture for each class.

    Attributes:
        backbone: name of the architecture.
        class_names: one per logit, and per row of the scores.
        input_shape: ``(C, H, W)`` of one image.
        dense: the network, in evaluation mode.
        layout: order, size and cost of the masked layers.
        scores: ``[classes, P]`` float32, m in path order.
        config: configuration of the run, as JSON values.
        figures: what was measured, by name.
    """

    backbone: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    dense: nn.Module
    layout: PathLayout
    scores: Tensor
    config: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paths(self) -> PathSet:
        """``[classes, P]`` the sub-architectures."""
        return PathSet(self.layout, (self.scores > 0).numpy().astype(np.uint8))

    def network(self) -> MaskedNetwork:
        """The network under these masks."""
        network = attach_class_masks(self.dense, torch.zeros(1, *self.input_shape), len(self.class_names))
        network.scores = self.scores
        return network

    def save(self, path: Path) -> None:
        """Write the file in one step."""
        tensors = prefixed("dense", self.dense.state_dict()) | {"scores": self.scores}
        about = {
            "schema": SCHEMA,
            "backbone": self.backbone,
            "class_names": self.class_names,
            "input_shape": self.input_shape,
            "layout": self.layout.to_json(),
            "config": dict(self.config),
            "figures": dict(self.figures),
        }
        write_tensors(path, about, tensors)


def load_sub_architectures(path: Path) -> SubArchitectures:
    """Read what `SubArchitectures.save` wrote.

    Raises:
        NotFoundError: there is no such file.
        BundleError: damaged, another kind of file, or of another schema.
    """
    if not path.is_file():
        raise NotFoundError(f"no sub-architectures at {path}: has `penstock disentangle` ended there?")
    return read_tensors(
        path, SCHEMA, _restore, what="a file of sub-architectures", remedy="disentangle again"
    )


def _restore(about: dict[str, Any], tensors: dict[str, Tensor]) -> SubArchitectures:
    dense = build_backbone(about["backbone"], len(about["class_names"]))
    dense.load_state_dict(with_prefix("dense", tensors))
    return SubArchitectures(
        backbone=about["backbone"],
        class_names=tuple(about["class_names"]),
        input_shape=tuple(about["input_shape"]),
        dense=dense.eval(),
        layout=PathLayout.from_json(about["layout"]),
        scores=tensors["scores"],
        config=about["config"],
        figures=about["figures"],
    )
