"""Files of flagged images: whole lines, rotation, the cap, and both formats."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from penstock.errors import ConfigurationError
from penstock.service.cluster.own_sink import with_own_sink
from penstock.service.flag_records import FlagRecord
from penstock.service.settings import Settings
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


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_json_lines_rotate_and_the_oldest_go(tmp_path: Path) -> None:
    store = JsonLines(tmp_path, file_bytes=500, total_bytes=1500)
    for number in range(40):
        assert store.write(row(number)) == 1
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1500
    store.close()
    files = sorted(tmp_path.iterdir())
    assert all(file.stat().st_size <= 500 for file in files)
    kept = [line["image_index"] for file in files for line in lines(file)]
    assert kept == list(range(40))[-len(kept) :]
    assert len(kept) >= 5


def test_broken_image_is_valid_json(tmp_path: Path) -> None:
    store = JsonLines(tmp_path, file_bytes=10_000, total_bytes=10_000)
    store.write(row(0, score=float("nan")))
    store.close()
    line = next(tmp_path.iterdir()).read_text()
    assert json.loads(line, parse_constant=pytest.fail)["score"] is None


def test_parquet_holds_records_and_images(tmp_path: Path) -> None:
    store = Parquet(tmp_path, file_bytes=100_000, total_bytes=100_000)
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


def noise(number: int, side: int) -> Row:
    """A row whose image cannot be compressed."""
    image = np.random.default_rng(number).random((3, side, side), dtype=np.float32)
    return replace(row(number), image=image)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_images_keep_to_the_sizes_of_a_file_and_of_all(tmp_path: Path, kind: str) -> None:
    file_bytes, total_bytes = 2**20, 3 * 2**20
    store = open_store(kind, tmp_path, file_bytes, total_bytes)
    written = 0
    for number in range(16):
        written += store.write(noise(number, side=180))  # 380 KiB, and half as much again in JSON
        assert number + 1 - written <= 2, "rows of less than a file gather"
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= total_bytes
    assert written + store.close() == 16
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert max(sizes) <= file_bytes
    assert sum(sizes) > total_bytes - 2 * file_bytes, "the cap is made use of"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_image_beyond_the_size_of_a_file_is_left_out_of_its_record(tmp_path: Path, kind: str) -> None:
    store = open_store(kind, tmp_path, 2**20, 2**20)
    written = store.write(noise(0, side=512)) + store.write(noise(1, side=8)) + store.close()
    assert written == 2
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size <= 2**20
    kept = parquet.read_table(file).to_pylist() if kind == "parquet" else lines(file)
    assert [(each["image_index"], each.get("image") is None) for each in kept] == [(0, True), (1, False)]


def test_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"sink folder .*file/below' cannot be made"):
        open_store("jsonl", tmp_path / "file" / "below", 1, 1)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_file_that_goes_while_room_is_made_costs_no_record(tmp_path: Path, kind: str) -> None:
    (tmp_path / "flags-0").symlink_to("gone")  # listed, and not there when it is looked at
    store = open_store(kind, tmp_path, 2**20, 2**20)
    assert store.write(row(0)) + store.close() == 1


def test_each_replica_keeps_its_records_in_a_folder_of_its_own(tmp_path: Path) -> None:
    settings = Settings(model_repository=tmp_path, sink_folder=tmp_path / "sink")
    with ExitStack() as one, ExitStack() as other:
        folders = [with_own_sink(settings, held).sink_folder for held in (one, other)]
        assert folders == [tmp_path / "sink" / "replica-1", tmp_path / "sink" / "replica-2"]
        one.close()
        assert with_own_sink(settings, other).sink_folder == folders[0], "it is free again"
        without = replace(settings, sink_folder=None)
        assert with_own_sink(without, other) == without


def test_folder_of_replicas_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(model_repository=tmp_path, sink_folder=tmp_path / "file" / "below")
    with ExitStack() as held, pytest.raises(ConfigurationError, match=r"sink folder .*file/below' cannot be"):
        with_own_sink(settings, held)
