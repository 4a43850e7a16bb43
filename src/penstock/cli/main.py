"""Entry of the command line.

Exit codes: 0 all well, 1 an error that the message explains, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from penstock.cli import detecting, exporting, judging, learning, running
from penstock.errors import PenstockError

EXTRAS = {
    "serve": "serve",
    "infer": "serve",
    "watch": "serve",
    "score": "serve",
    "export": "export,train",
    "detect": "export,train,attacks",
    "demo": "serve,export,train,attacks",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    parsed = parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        return code
    except PenstockError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("penstock"):
            raise
        needed = EXTRAS.get(parsed.command, "train")
        return _fail(
            f"`penstock {parsed.command}` needs {error.name}, which is not installed: "
            f"pip install 'penstock[{needed}]'"
        )
    except OSError as error:  # a folder that may not be written, a full disk: the system says which and why
        return _fail(str(error))
    except KeyboardInterrupt:
        print("penstock: interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    whole = argparse.ArgumentParser(
        prog="penstock",
        description="Convolutional networks that compute only what each input needs, and tell when an input is "
        "suspicious.",
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for family in (running, exporting, judging, detecting, learning):
        family.add(commands)
    return whole


def _fail(message: str) -> int:
    print(f"penstock: error: {message}", file=sys.stderr)
    return 1
