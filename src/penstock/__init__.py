"""Convolutional networks that compute only what each input needs, and tell when an input is suspicious."""

from importlib.metadata import version

from penstock.errors import PenstockError
from penstock.paths import PathLayer, PathLayout, PathSet

__version__ = version("penstock")

__all__ = ["PathLayer", "PathLayout", "PathSet", "PenstockError", "__version__"]
