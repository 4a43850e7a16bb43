"""Convolutional networks that compute only what each input needs, and tell when an input is suspicious."""

from importlib.metadata import version

from penstock.errors import PenstockError
from penstock.paths import Follower, PathLayer, PathLayout, PathSet

__version__ = version("penstock")

__all__ = ["Follower", "PathLayer", "PathLayout", "PathSet", "PenstockError", "__version__"]
