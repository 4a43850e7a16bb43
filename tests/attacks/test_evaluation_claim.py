"""A run folder is of one evaluation, whoever asks first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from penstock.attacks import evaluation_claim
from penstock.attacks.evaluation_claim import CLAIM, EDITION, claim, images_digests, masks_digest
from penstock.data import load
from penstock.errors import AlreadyExistsError
from penstock.files import write_atomic


def test_a_folder_is_of_one_set_of_images(tmp_path: Path) -> None:
    splits = load("digits")
    shown = np.linspace(0, 1, 12, dtype=np.float32)

    def images(foreign: Any = shown, **parts: Any) -> dict[str, Any]:
        return {"images": images_digests(replace(splits, **parts), {"mnist": foreign})}

    claim(tmp_path, images())
    claim(tmp_path, images())
    fewer, renamed = splits.test.take(np.arange(9)), replace(splits.test, labels=9 - splits.test.labels)
    for other in (fewer, renamed):
        with pytest.raises(AlreadyExistsError, match=r"its images\.test is "):
            claim(tmp_path, images(test=other))
    with pytest.raises(AlreadyExistsError, match=r"its images\.mnist is "):
        claim(tmp_path, images(foreign=shown[::-1]))
    claim(tmp_path, images())


def test_a_refusal_names_the_first_difference_both_values_and_what_to_do(tmp_path: Path) -> None:
    claim(
        tmp_path,
        {"source": {"name": "tiny"}, "config": {"images": 16, "kinds": ("fgsm", "cw"), "counts": {}}},
    )
    with pytest.raises(AlreadyExistsError) as refused:
        claim(tmp_path, {"source": {"name": "tiny"}, "config": {"images": 3, "kinds": ("cw",), "counts": {}}})
    assert str(refused.value) == (
        f"{tmp_path} holds another evaluation: its config.images is 16, and is 3 here. Name another folder, or ask for "
        "the same again"
    )
    with pytest.raises(AlreadyExistsError, match=r"config\.counts\.cw is not said, and is 5 here"):
        claim(tmp_path, {"config": {"images": 16, "kinds": ("fgsm", "cw"), "counts": {"cw": 5}}})
    (tmp_path / CLAIM).write_text(json.dumps({"edition": 1, "config": {"images": 3}}))
    with pytest.raises(AlreadyExistsError, match=f"its edition is 1, and is {EDITION} here"):
        claim(tmp_path, {"config": {"images": 16}})


def test_what_is_known_later_is_added_and_holds_from_then_on(tmp_path: Path) -> None:
    claim(tmp_path, {"config": {"images": 16}})
    claim(tmp_path, {"detector": "abc"})
    claim(tmp_path, {"config": {"images": 16}})
    with pytest.raises(AlreadyExistsError, match="its detector is abc, and is abd here"):
        claim(tmp_path, {"detector": "abd"})


def test_of_two_who_ask_at_once_one_gets_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Thread] = []
    outcomes: list[object] = []

    def second() -> None:
        try:
            claim(tmp_path, {"config": 2})
        except AlreadyExistsError as error:
            outcomes.append(error)

    def slow_write(path: Path, content: str) -> None:
        """The second asks just when the first, who has found the folder free, is about to write."""
        monkeypatch.setattr(evaluation_claim, "write_atomic", write_atomic)
        asked.append(Thread(target=second))
        asked[0].start()
        asked[0].join(0.1)
        assert asked[0].is_alive()
        write_atomic(path, content)

    monkeypatch.setattr(evaluation_claim, "write_atomic", slow_write)
    claim(tmp_path, {"config": 1})
    asked[0].join(20)
    (refused,) = outcomes
    assert "its config is 1, and is 2 here" in str(refused)


def test_sub_architectures_count_by_what_is_in_the_file(tmp_path: Path) -> None:
    assert masks_digest("") == masks_digest(str(tmp_path)) == ""
    file = tmp_path / "sub_architectures.safetensors"
    file.write_bytes(b"one")
    first = masks_digest(str(tmp_path))
    assert first == masks_digest(str(file)) != ""
    file.write_bytes(b"two")
    assert masks_digest(str(tmp_path)) != first
