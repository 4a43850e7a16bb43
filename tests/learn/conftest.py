import dataclasses
from collections.abc import Callable

import pytest

from penstock.learn.config import DecoupleConfig, Schedule


@pytest.fixture(scope="session")
def short() -> Callable[..., DecoupleConfig]:
    """A run of a second: digits, few epochs. Keywords replace fields."""
    config = DecoupleConfig(
        data="digits",
        backbone="digits-cnn",
        budget=0.6,
        dense=Schedule(epochs=2, batch_size=100, learning_rate=0.05),
        decouple=Schedule(epochs=3, batch_size=100, learning_rate=0.05),
    )

    def make(**changes: object) -> DecoupleConfig:
        return dataclasses.replace(config, **changes)  # type: ignore[arg-type]

    return make
