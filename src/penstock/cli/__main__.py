"""``python -m penstock.cli`` is ``penstock``."""

import sys

from penstock.cli.main import main

if __name__ == "__main__":  # processes that a training starts import this file again
    sys.exit(main())
