"""Data sets as plain arrays, with splits that keep training, calibration and testing apart."""

from penstock.data.imagenet import imagenet_sample
from penstock.data.images import ImageSet, Splits
from penstock.data.loading import NAMES, load

__all__ = ["NAMES", "ImageSet", "Splits", "imagenet_sample", "load"]
