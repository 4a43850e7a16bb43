"""The two top-level packages and the list of packages, which setuptools cannot find by itself."""

import importlib
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

import penstock

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "penstock"
OUTSIDE = ("service", "export")


def setuptools_table() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    return table


def packages_in(folder: Path, name: str) -> set[str]:
    """Dotted names of all folders under ``folder`` that hold an ``__init__.py``; links are not followed."""
    found = set()
    for current, folders, files in os.walk(folder):
        folders[:] = [entry for entry in folders if not (Path(current) / entry).is_symlink()]
        if "__init__.py" in files:
            found.add(".".join((name, *Path(current).relative_to(folder).parts)))
    return found


def test_the_list_of_packages_is_what_is_there() -> None:
    there = packages_in(SOURCE, "penstock")
    for name in OUTSIDE:
        there |= packages_in(ROOT / name, f"penstock.{name}")
    listed = setuptools_table()["packages"]
    assert listed == sorted(listed)
    assert set(listed) == there


@pytest.mark.parametrize("name", OUTSIDE)
def test_links_lead_to_the_folders_outside(name: str) -> None:
    link = SOURCE / name
    assert link.is_symlink()
    assert not Path(os.readlink(link)).is_absolute()
    assert link.resolve() == ROOT / name
    assert setuptools_table()["package-dir"][f"penstock.{name}"] == name


@pytest.mark.parametrize("name", OUTSIDE)
def test_folders_outside_are_imported_as_parts_of_penstock(name: str) -> None:
    module = importlib.import_module(f"penstock.{name}")
    assert module.__file__ is not None
    assert Path(module.__file__).resolve().parent.name == name


def test_types_are_announced() -> None:
    assert (SOURCE / "py.typed").is_file()
    assert penstock.__version__
