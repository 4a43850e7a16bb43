"""Named starting points of a configuration: ``preset = "paper"`` in the file, whose other keys come on top.

- ``penstock``: the defaults of `penstock.learn.config.DecoupleConfig`, as without a preset.
- ``paper``: what the released code of Li et al., ECCV 2020 (https://github.com/lliai/CVPR2020_1413, README and
  ``train.py``) uses for ResNet-20 and ResNet-56 on CIFAR-10. Its slips are mended here as everywhere: hard codes are
  drawn per sample, the divergence has one direction for all networks, responses are its fixed target, and the epoch is
  chosen on validation images. What remains different: Nesterov momentum, and no weight decay on biases and norms.

A preset says everything that shapes the training, so that ``paper`` stays the paper's whatever becomes the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.errors import ConfigurationError
from penstock.learn.reading import merged

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "penstock": {"gate": {"normalize": True}},  # a file's [gate] does not silently undo this default
    "paper": {
        "mutual_information": 0.01,
        "alignment": 1.0,
        "sparsity": 1.5e-4,
        "density": 0.0,
        "budget_weight": 0.0,
        "ramp": 0.0,
        "distillation": 0.0,
        "settle": 0.0,
        "views": 200,  # as many as epochs: no augmentation comes twice
        "precision": "32-true",
        "decouple": {
            "epochs": 200,
            "learning_rate": 0.1,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "clip": 0.0,
            "decay": "steps",
            "average": 0.0,
        },
        # In CIFAR networks the release draws every linear layer, W1 too, after it has been set to 0.
        "gate": {"reduction": 4, "normalize": False, "initial_logit": 1.0, "start": "kaiming"},
    },
}


def with_preset(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A configuration's values on top of those of the preset that it names.

    Args:
        values: of the file ``path``; the key ``preset`` may be missing.
        path: for messages.

    Raises:
        ConfigurationError: no such preset; the message lists those that there are.
    """
    name = values.get("preset", "penstock")
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigurationError(f"{path}: no preset {name!r}; there are {', '.join(sorted(PRESETS))}")
    return merged(PRESETS[name], {key: value for key, value in values.items() if key != "preset"})
