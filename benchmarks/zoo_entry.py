r"""Put a finished run into the zoo: checkpoint, figures, and the commands that made it.

    python benchmarks/zoo_entry.py runs/resnet56-cascade-dense-42 resnet56-cifar10 --origin "weights it started from"

A run of ``study.toml`` is followed by the commands of all runs that it needed; for another one they are given with
``--command``. With ``--half`` all weights are rounded to half precision first, which halves the file; then the detector
is fitted and everything is measured again, so that the figures are those of what is committed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib import resources
from pathlib import Path

import torch
from study_runs import lineage, read_study
from torch import nn

from penstock.data import load
from penstock.files import write_atomic
from penstock.learn import runs
from penstock.nn.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint


def main() -> int:
    """Copy a run's result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--origin", required=True)
    parser.add_argument(
        "--command", action="append", help="of a run that is not in study.toml, one for each step"
    )
    parser.add_argument("--half", action="store_true", help="round the weights to half precision")
    parsed = parser.parse_args()
    checkpoint = load_checkpoint(parsed.run / CHECKPOINT_FILE)
    if parsed.half:
        checkpoint = rounded(checkpoint)
    about = {
        "command": " && ".join(parsed.command or commands(parsed.run.name)),
        "origin": parsed.origin,
        "figures": dict(checkpoint.figures),
    }
    folder = Path(str(resources.files("penstock.zoo.checkpoints")))
    checkpoint.save(folder / f"{parsed.name}.safetensors")
    write_atomic(folder / f"{parsed.name}.json", json.dumps(about, indent=2) + "\n")
    return 0


def commands(name: str) -> list[str]:
    """How the study makes a run, step by step."""
    return [
        f"penstock {' '.join(run.arguments).format(runs='runs')} --out runs/{run.name}"
        for run in lineage(read_study(), {name})
    ]


@torch.no_grad()
def rounded(checkpoint: Checkpoint) -> Checkpoint:
    """The same with weights that half precision holds exactly, its detector and figures made anew."""
    for module in (checkpoint.network, checkpoint.dense):
        halve(module)
    with tempfile.TemporaryDirectory() as folder:
        return runs.finish(
            Path(folder),
            load(str(checkpoint.config["data"])),
            checkpoint.network,
            checkpoint.dense,
            backbone=checkpoint.backbone,
            members=checkpoint.members,
            config=checkpoint.config,
            fpr=float(checkpoint.config["fpr"]),
        )


def halve(module: nn.Module) -> None:
    """Round weights, but no biases and nothing of batch norms: they are few, and small errors of theirs are large."""
    for tensor in module.parameters():
        if tensor.ndim > 1:
            tensor.copy_(tensor.half())


if __name__ == "__main__":
    sys.exit(main())
