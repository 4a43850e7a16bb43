"""What becomes of a request some of whose images are flagged; chosen per model.

``annotate`` answers and says so, ``reject`` refuses the whole request, ``shadow`` answers as if there were no
detector and only counts: for seeing what a detector would do before anyone depends on it. A model chooses in its
``config.pbtxt``; the settings say what holds for those that do not:

    parameters { key: "penstock_flag_policy" value { string_value: "reject" } }
"""

from __future__ import annotations

from enum import StrEnum

from tritonclient.grpc import model_config_pb2

from penstock import bundle
from penstock.errors import BundleError
from penstock.manifest import Manifest
from penstock.service.settings import CHOICES

POLICY_PARAMETER = "penstock_flag_policy"


class FlagPolicy(StrEnum):
    """What becomes of a request with flagged images."""

    ANNOTATE = "annotate"
    REJECT = "reject"
    SHADOW = "shadow"

    @property
    def hidden_outputs(self) -> frozenset[str]:
        """Outputs that clients must not see."""
        return frozenset((bundle.SCORE, bundle.FLAG)) if self is FlagPolicy.SHADOW else frozenset()


def policy_of(config: model_config_pb2.ModelConfig, default: str) -> FlagPolicy:
    """The policy that a model's configuration asks for.

    Args:
        config: the model's ``config.pbtxt``.
        default: what holds where it says nothing.

    Raises:
        BundleError: no policy has that name.
    """
    if POLICY_PARAMETER not in config.parameters:
        return FlagPolicy(default)
    name = config.parameters[POLICY_PARAMETER].string_value
    if name not in CHOICES["flag_policy"]:
        raise BundleError(
            f"{bundle.CONFIG_FILE} of {config.name!r} has {POLICY_PARAMETER} {name!r}; "
            f"expected {', '.join(CHOICES['flag_policy'])}"
        )
    return FlagPolicy(name)


def warning_of(policy: FlagPolicy, manifest: Manifest, max_batch: int) -> str | None:
    """What whoever loads a model should know about its policy; ``None`` if there is nothing.

    A flag is promised to be wrong for a share of honest images, and one wrong flag refuses a whole batch.
    """
    if policy is not FlagPolicy.REJECT or manifest.calibration is None:
        return None
    rate = manifest.calibration.target_fpr
    refused = 1 - (1 - rate) ** max_batch
    return (
        f"refuses requests with flagged images, and {rate:.1%} of honest images are flagged: of honest batches "
        f"of {max_batch}, about {refused:.0%} will be refused"
    )
