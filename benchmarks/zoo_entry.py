"""Put a finished run into the zoo: checkpoint, figures, and the command that made it.

python benchmarks/zoo_entry.py RUN NAME --config configs/NAME.toml --origin "weights and licence it started from"
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import resources
from pathlib import Path

from penstock.files import write_atomic
from penstock.nn.checkpoint import CHECKPOINT_FILE, load_checkpoint


def main() -> int:
    """Copy a run's result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--config", required=True)
    parser.add_argument("--origin", required=True)
    parsed = parser.parse_args()
    file = parsed.run / CHECKPOINT_FILE
    checkpoint = load_checkpoint(file)
    about = {
        "command": f"penstock decouple --config {parsed.config} --out runs/{parsed.name}",
        "origin": parsed.origin,
        "figures": dict(checkpoint.figures),
    }
    folder = Path(str(resources.files("penstock.zoo.checkpoints")))
    write_atomic(folder / f"{parsed.name}.safetensors", file.read_bytes())
    write_atomic(folder / f"{parsed.name}.json", json.dumps(about, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
