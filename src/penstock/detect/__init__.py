"""Tell from an input's path whether it looks like honest inputs of its predicted class."""

from penstock.detect.calibration import (
    class_thresholds,
    conformal_threshold,
    false_positive_interval,
    resplit_rates,
)
from penstock.detect.combined import CombinedScore
from penstock.detect.detector import PathDetector
from penstock.detect.disagreement import ClassDisagreement
from penstock.detect.explanation import Explanation, explain
from penstock.detect.family import FamilyDetector
from penstock.detect.family_score import FamilyScore
from penstock.detect.features import PathFeatures
from penstock.detect.lifecycle import Detector
from penstock.detect.likelihood import BitLikelihood
from penstock.detect.mahalanobis import GateMahalanobis
from penstock.detect.recipe import Recipe, usual_detector
from penstock.detect.supervised import CLASSIFIERS, SupervisedDetector

__all__ = [
    "CLASSIFIERS",
    "BitLikelihood",
    "ClassDisagreement",
    "CombinedScore",
    "Detector",
    "Explanation",
    "FamilyDetector",
    "FamilyScore",
    "GateMahalanobis",
    "PathDetector",
    "PathFeatures",
    "Recipe",
    "SupervisedDetector",
    "class_thresholds",
    "conformal_threshold",
    "explain",
    "false_positive_interval",
    "resplit_rates",
    "usual_detector",
]
