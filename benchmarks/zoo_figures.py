r"""Measure the committed checkpoints anew on their test images, where what is measured has changed.

    python benchmarks/zoo_figures.py                     # all of them
    python benchmarks/zoo_figures.py resnet20-cifar10    # or some

Weights, detector and its false-positive rate stay as they are; accuracy, cost and input dependence are written into
the checkpoint and into the description beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

from penstock import zoo
from penstock.data import load
from penstock.files import write_atomic
from penstock.learn.figures import accuracy_figures
from penstock.nn.checkpoint import Checkpoint, load_checkpoint
from penstock.nn.inference import answer


def main() -> int:
    """Measure what is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of the entries; by default all")
    parsed = parser.parse_args()
    for entry in map(zoo.find, parsed.names) if parsed.names else zoo.entries():
        print(f"{entry.name}: measuring", flush=True)
        checkpoint = measured(load_checkpoint(entry.file))
        about = {"command": entry.command, "origin": entry.origin, "figures": dict(checkpoint.figures)}
        checkpoint.save(entry.file)
        write_atomic(entry.file.with_suffix(".json"), json.dumps(about, indent=2) + "\n")
    return 0


def measured(checkpoint: Checkpoint) -> Checkpoint:
    """The same with figures that are measured now."""
    test = load(str(checkpoint.config["data"])).test
    network = checkpoint.network.eval()
    found = accuracy_figures(test, answer(network, test.images), network, checkpoint.dense)
    return replace(checkpoint, figures=dict(checkpoint.figures) | found)


if __name__ == "__main__":
    sys.exit(main())
