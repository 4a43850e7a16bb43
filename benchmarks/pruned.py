r"""Prune a timing source's dense network statically with Torch-Pruning, and write it as ONNX.

    python benchmarks/pruned.py timing:resnet18 --macs 0.54 --batch 1 --out DIR

What somebody without paths would do: dependency graphs find which filters must go together, also across residual adds
(Fang et al., *DepGraph*, CVPR 2023, https://arxiv.org/abs/2301.12900), those of the smallest norm go, an equal share of
every group, in multiples of 16 as ONNX Runtime's fast layout wants them. The share is the smallest that keeps to the
MACs asked for. ``DIR`` gets ``model.onnx`` and ``about.json`` with the share of MACs that is left.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path

import torch
import torch_pruning as tp
from torch import nn

from penstock.nn.checkpoint import load_source

WIDTHS = 16  # filters come in multiples of this many
STEPS = 40  # shares that are tried


def main() -> int:
    """Prune and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source")
    parser.add_argument("--macs", type=float, required=True, help="share of the dense MACs to keep to")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parsed = parser.parse_args()
    checkpoint, _ = load_source(parsed.source)
    example = torch.rand(parsed.batch, *checkpoint.input_shape)
    network, share = pruned(checkpoint.dense, example, parsed.macs)
    parsed.out.mkdir(parents=True, exist_ok=True)
    program = torch.onnx.export(
        network, (example,), input_names=["images"], output_names=["logits"], opset_version=18, dynamo=True
    )
    assert program is not None
    program.save(parsed.out / "model.onnx", external_data=False)
    (parsed.out / "about.json").write_text(json.dumps({"macs": share}) + "\n", encoding="utf-8")
    return 0


def pruned(dense: nn.Module, example: torch.Tensor, macs: float) -> tuple[nn.Module, float]:
    """The widest pruned network that keeps to a share of the dense MACs, and the share that it takes."""
    whole, _ = tp.utils.count_ops_and_params(dense, example)
    for step in range(1, STEPS):
        network = copy.deepcopy(dense)
        pruner = tp.pruner.MagnitudePruner(
            network,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=step / STEPS,
            ignored_layers=[module for module in network.modules() if isinstance(module, nn.Linear)],
            round_to=WIDTHS,
        )
        pruner.step()
        left, _ = tp.utils.count_ops_and_params(network, example)
        if left <= macs * whole:
            return network.eval(), left / whole
    raise SystemExit(f"no share of filters keeps to {macs:.0%} of the MACs")


if __name__ == "__main__":
    sys.exit(main())
