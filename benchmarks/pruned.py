r"""Prune a source's dense network statically with Torch-Pruning to the MACs of its paths, and write it as ONNX.

    python benchmarks/pruned.py timing:resnet18,density=0.5,prototypes=1 --out DIR
    python benchmarks/pruned.py zoo:vgg16-cifar10 --out DIR
    python benchmarks/pruned.py zoo:vgg16-cifar10 --macs 0.5 --out DIR   # at another share than the paths'

What somebody without paths would do: dependency graphs find which filters must go together, also across residual adds
(Fang et al., *DepGraph*, CVPR 2023, https://arxiv.org/abs/2301.12900), those of the smallest norm go, an equal share of
every group, in multiples of 16 as ONNX Runtime's fast layout wants them, or finer where layers are narrow. The
share is the smallest that keeps to what the source's own paths ask for on average, so the two can be compared at equal
MACs, or with ``--macs`` to another share, to compare them at equal accuracy. A network of a data set is then fine-tuned
on its training images, see `pruned_training`.

``DIR`` gets ``model.onnx``, which takes any batch, and ``about.json`` with the share of MACs that is left.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch_pruning as tp
from pruned_training import FineTuning, fine_tuned
from torch import nn

from penstock.export.capture.contract import DenseModel
from penstock.export.capture.exporting import capture
from penstock.export.compiling import serialize
from penstock.export.passes.simplify import tidy
from penstock.nn.backbones import BasicBlock, CifarResNet
from penstock.nn.checkpoint import Checkpoint, load_source
from penstock.nn.inference import answer
from penstock.nn.timing_paths import timing_images
from penstock.paths import PathLayout

WIDTH = 16  # filters come in multiples of this many, or of a quarter of the narrowest layer
STEPS = 40  # shares that are tried
EXAMPLES = 8  # images to see what paths ask for where no test images have told


def main(arguments: Sequence[str] | None = None) -> int:
    """Prune, fine-tune, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source")
    parser.add_argument("--macs", type=float, metavar="SHARE", help="to keep to (what the paths ask for)")
    parser.add_argument("--epochs", type=int, default=FineTuning.epochs, help="of fine-tuning")
    parser.add_argument("--out", type=Path, required=True)
    parsed = parser.parse_args(arguments)
    checkpoint, origin = load_source(parsed.source, detector=False)
    network, share = pruned(checkpoint, parsed.macs or budget(checkpoint))
    if "data" in checkpoint.config:
        asked = FineTuning(str(checkpoint.config["data"]), origin["sha256"], share, epochs=parsed.epochs)
        fine_tuned(network, checkpoint.dense, asked)
    parsed.out.mkdir(parents=True, exist_ok=True)
    write(network, checkpoint.network.layout, checkpoint.input_shape, parsed.out / "model.onnx")
    (parsed.out / "about.json").write_text(json.dumps({"macs": share}) + "\n", encoding="utf-8")
    return 0


def budget(checkpoint: Checkpoint) -> float:
    """Mean share of the dense MACs that a source's paths ask for: on its test images, or else on random ones."""
    measured = checkpoint.figures.get("mac_fraction")
    if measured is not None:
        return float(measured)
    images = 255 * timing_images(EXAMPLES, checkpoint.input_shape, seed=0).numpy()
    return float(answer(checkpoint.network, images).active_macs.mean())


def pruned(checkpoint: Checkpoint, macs: float) -> tuple[nn.Module, float]:
    """The widest pruned network that keeps to a share of the dense MACs, and the share that it takes."""
    example = torch.rand(1, *checkpoint.input_shape)
    whole, _ = tp.utils.count_ops_and_params(checkpoint.dense, example)
    for step in range(1, STEPS):
        network = copy.deepcopy(checkpoint.dense)
        tp.pruner.MagnitudePruner(
            network,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=step / STEPS,
            ignored_layers=_whole(network, len(checkpoint.class_names)),
            round_to=min(WIDTH, _narrowest(network) // 4),
        ).step()
        left, _ = tp.utils.count_ops_and_params(network, example)
        if left <= macs * whole:
            return network.eval(), left / whole
    raise SystemExit(f"no share of filters keeps to {macs:.0%} of the MACs")


def write(network: nn.Module, layout: PathLayout, shape: tuple[int, int, int], file: Path) -> None:
    """Write a network as ONNX that takes any batch, by the way that the dense one takes: so the two can be compared."""
    served = DenseModel(network, layout).eval()
    file.write_bytes(serialize(tidy(capture(served, shape))))


def _whole(network: nn.Module, classes: int) -> list[nn.Module]:
    """Layers that keep their width: classifiers, and what is added to shortcuts that pad with channels of zeros.

    Torch-Pruning does not see how such a shortcut ties the widths on both sides together. Blocks become narrow inside.
    """
    kept: list[nn.Module] = [
        module
        for module in network.modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.out_channels == classes)
    ]
    if isinstance(network, CifarResNet):
        blocks = (module for module in network.modules() if isinstance(module, BasicBlock))
        kept += [network.conv1, *(block.conv2 for block in blocks)]
    return kept


def _narrowest(network: nn.Module) -> int:
    """Filters of the convolution that has the fewest."""
    return min(module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d))


if __name__ == "__main__":
    sys.exit(main())
