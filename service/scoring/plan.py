"""Read what a plan says about scoring; what it says about exports is `penstock.export.plans`' part.

repository = "models"

[[score]]
model = "resnet20-masked"
images = "photos"           # and all folders in it
out = "photos.jsonl"
version = 2                 # the latest by default
batch = 32                  # images in one run, at most
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from penstock.bundle import check_name
from penstock.errors import ConfigurationError, InvalidArgumentError, NotFoundError

SCORE = "score"
_KINDS = {"str": str, "Path": str, "int": int}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One folder of images and the model that scores it.

    Attributes:
        repository: folder of models.
        model: name in it.
        images: folder of images.
        out: file of JSON lines.
        version: of the model; 0 for the latest.
        batch: images in one run, at most.
    """

    repository: Path
    model: str
    images: Path
    out: Path
    version: int = 0
    batch: int = 32

    def __post_init__(self) -> None:
        check_name(self.model)
        if self.version < 0 or self.batch < 1:
            raise InvalidArgumentError(
                f"version is {self.version} and batch {self.batch}: they must be 0 (the latest) or more, and 1 or more"
            )


def read_scores(path: Path, repository: Path | None = None) -> tuple[Score, ...]:
    """What a plan asks to score.

    Args:
        path: TOML file.
        repository: counts instead of what the plan says.

    Raises:
        NotFoundError: there is no such file.
        ConfigurationError: not TOML, or an entry cannot be right; says which, and why.
    """
    if not path.is_file():
        raise NotFoundError(f"no plan {path}: name a TOML file with [[{SCORE}]] tables")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    models = str(repository) if repository else values.get("repository")
    tables = values.get(SCORE, [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError(f"{path}: there is no [[{SCORE}]]: add one with model, images and out")
    scores = tuple(
        _score({"repository": models} | table, f"{path}: score {number}")
        for number, table in enumerate(tables, 1)
    )
    outs = [score.out for score in scores]
    twice = {str(out) for out in outs if outs.count(out) > 1}
    if twice:
        raise ConfigurationError(f"{path}: several scores have the same out: {', '.join(sorted(twice))}")
    return scores


def _score(table: dict[str, Any], where: str) -> Score:
    known = {field.name: field for field in fields(Score)}
    for key, value in table.items():
        if key not in known:
            raise ConfigurationError(f"{where}: unknown key {key!r}; known are {', '.join(known)}")
        kind = _KINDS[str(known[key].type)]
        if value is not None and type(value) is not kind:
            raise ConfigurationError(f"{where}: {key} is {value!r}: it must be a {kind.__name__}")
    missing = [name for name, field in known.items() if field.default is MISSING and not table.get(name)]
    if missing:
        raise ConfigurationError(f"{where}: {', '.join(missing)} is missing")
    paths = {name: Path(table[name]) for name in ("repository", "images", "out")}
    try:
        return Score(**table | paths)
    except InvalidArgumentError as error:
        raise ConfigurationError(f"{where}: {error}") from error
