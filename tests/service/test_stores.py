"""Files of flagged images: whole lines, rotation, the cap, and both formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from penstock.errors import ConfigurationError
from penstock.service.flag_records import FlagRecord
from penstock.service.stores import JsonLines, Parquet, Row, open_store


def row(number: int, *, score: float = 2.0, image: bool = False) -> Row:
    record = FlagRecord(
        request_id=f"r{number}",
        model="batched",
        version=1,
        image_index=number,
        score=score,
        class_name="ant",
        time=1e9 + number,
        path_digest="0" * 16,
    )
    return Row(record, np.full((3, 2, 2), number, dtype=np.float32) if image else None)


def test_json_lines_rotate_and_the_oldest_go(tmp_path: Path) -> None:
    store = JsonLines(tmp_path, file_bytes=500, total_bytes=1500)
    for number in range(40):
        assert store.write(row(number)) == 1
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1500
    store.close()
    files = sorted(tmp_path.iterdir())
    assert all(file.stat().st_size <= 500 for file in files)
    kept = [json.loads(line)["image_index"] for file in files for line in file.read_text().splitlines()]
    assert kept == list(range(40))[-len(kept) :]
    assert len(kept) >= 5


def test_broken_image_is_valid_json(tmp_path: Path) -> None:
    store = JsonLines(tmp_path, file_bytes=10_000, total_bytes=10_000)
    store.write(row(0, score=float("nan")))
    store.close()
    line = next(tmp_path.iterdir()).read_text()
    assert json.loads(line, parse_constant=pytest.fail)["score"] is None


def test_parquet_holds_records_and_images(tmp_path: Path) -> None:
    store = Parquet(tmp_path, total_bytes=100_000)
    assert [store.write(row(number, image=number == 1)) for number in range(3)] == [0, 0, 0]
    assert store.tick() == 0
    assert store.close() == 3
    assert store.close() == 0
    rows = parquet.read_table(next(tmp_path.iterdir())).to_pylist()
    assert [each["request_id"] for each in rows] == ["r0", "r1", "r2"]
    assert [each["image"] is None for each in rows] == [True, False, True]
    assert (
        np.frombuffer(rows[1]["image"], rows[1]["image_dtype"]).reshape(rows[1]["image_shape"])[2, 1, 1] == 1
    )


def test_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"sink folder .*file/below' cannot be made"):
        open_store("jsonl", tmp_path / "file" / "below", 1, 1)
