"""Tables of values by name, whose keys no dataclass knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock.errors import ConfigurationError
from penstock.learn.reading import read


@dataclass(frozen=True)
class Shares:
    """A configuration with such a table."""

    of: dict[str, float] = field(default_factory=dict)


def test_a_table_of_values_is_read_and_each_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "shares.toml"
    file.write_text("[of]\npgd = 1\nfgsm = 0.5\n")
    assert read(Shares, file) == Shares({"pgd": 1.0, "fgsm": 0.5})
    assert read(Shares, file, ["of.pgd=0.25"]).of["pgd"] == 0.25
    with pytest.raises(ConfigurationError, match=r"of\.pgd is 'all'; it must be of type float"):
        read(Shares, file, ["of.pgd=all"])
    file.write_text("of = 1\n")
    with pytest.raises(ConfigurationError, match=r"of is 1; it must be a table of values by name"):
        read(Shares, file)
