"""Folders of images without a server: its answers all the same, in this process and on a cluster that loses a part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from penstock.cli import main
from penstock.errors import ConfigurationError, NotFoundError
from penstock.service import client
from penstock.service.images import read_images
from penstock.service.scoring.plan import read_scores
from tests.service.scale import Record, long, scaled

CLUSTER = Path(__file__).with_name("ray_cluster.py")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an optional extra: penstock[ray]")
MANY = scaled(20_000, 1_000)


def folder_of_images(folder: Path, count: int, *, slow: bool = False) -> Path:
    """Images of 8x8 in a folder and one below it, a few of which are flagged."""
    rng = np.random.default_rng(5)
    (folder / "below").mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 150 if number % 4 else 255, size=(8, 8, 3), dtype=np.uint8)
        if slow:
            pixels[0, 0, 0] = 3
        Image.fromarray(pixels).save(folder / ("below" if number % 2 else "") / f"{number:05}.png")
    return folder


def plan_of(folder: Path, repository: Path, *scores: dict[str, Any]) -> Path:
    lines = [f"repository = {json.dumps(str(repository))}"]
    for score in scores:
        lines += ["[[score]]", *(f"{key} = {json.dumps(value)}" for key, value in score.items())]
    (folder / "plan.toml").write_text("\n".join(lines))
    return folder / "plan.toml"


def begun(out: Path) -> bool:
    """Whether the results of a first task were written; the file gets its name when it is whole."""
    return any(each.stat().st_size for each in out.parent.glob(f".{out.name}.*"))


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_name_that_is_no_utf8_is_kept(repository: Path, tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images", 1)
    strange = os.fsdecode(b"a\xff.png")
    (images / "00000.png").rename(images / strange)
    score = {"model": "batched", "images": str(images), "out": str(tmp_path / "found.jsonl")}
    assert main(["score", "--plan", str(plan_of(tmp_path, repository, score))]) == 0
    assert [record["file"] for record in records(tmp_path / "found.jsonl")] == [strange]


@pytest.mark.parametrize("model", ["batched", "single", "pixels"])
def test_records_are_the_servers_answers(repository: Path, server: Any, tmp_path: Path, model: str) -> None:
    images = folder_of_images(tmp_path / "images", 11)
    (images / "spoilt.png").write_text("no image")
    (images / "notes.txt").write_text("not looked at")
    score = {"model": model, "images": str(images), "out": str(tmp_path / "out" / "found.jsonl"), "batch": 4}
    assert main(["score", "--plan", str(plan_of(tmp_path, repository, score))]) == 1, "one file is no image"
    found = records(tmp_path / "out" / "found.jsonl")
    assert [record["file"] for record in found] == sorted(record["file"] for record in found)
    (spoilt,) = (record for record in found if "error" in record)
    assert spoilt.keys() == {"file", "error"}
    assert spoilt["file"] == "spoilt.png"
    good = [record for record in found if record is not spoilt]
    assert len(good) == 11
    pixels: npt.NDArray[Any] = read_images([images / record["file"] for record in good], (3, 8, 8))
    batch = pixels if model == "pixels" else pixels.astype(np.float32) / np.float32(255)
    parts = [client.infer(server.url, model, batch[begin : begin + 8]) for begin in (0, 8)]
    answer = type(parts[0]).join(parts)
    np.testing.assert_allclose([record["logits"] for record in good], answer.logits, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        [record["anomaly_score"] for record in good], answer.anomaly_score[:, 0], rtol=1e-6
    )
    flags = [record["adversarial"] for record in good]
    assert flags == answer.adversarial[:, 0].tolist()
    assert set(flags) == {True, False}
    assert {record["class"] for record in good} <= {"ant", "bee", "cat", "dog"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "../x"}, "score 1"),
        ({"images": 3}, "images is 3: it must be a str"),
        ({"batch": 0}, "batch 0"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"out": ""}, "out is missing"),
    ],
)
def test_wrong_entries_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    score = {"model": "net", "images": "a", "out": "b"} | change
    with pytest.raises(ConfigurationError, match=message):
        read_scores(plan_of(tmp_path, tmp_path, score))


def test_plans_without_scores_or_with_the_same_file_twice(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no \[\[score\]\]"):
        read_scores(plan_of(tmp_path, tmp_path))
    same = {"model": "net", "images": "a", "out": "b"}
    with pytest.raises(ConfigurationError, match="the same out: b"):
        read_scores(plan_of(tmp_path, tmp_path, same, same))
    with pytest.raises(NotFoundError):
        read_scores(tmp_path / "nowhere.toml")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_message_says_what_to_install(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = folder_of_images(tmp_path / "images", 1)
    score = {"model": "batched", "images": str(images), "out": str(tmp_path / "found.jsonl")}
    plan = plan_of(tmp_path, repository, score)
    assert main(["score", "--plan", str(plan), "--ray"]) == 1
    assert "pip install 'penstock[ray]'" in capsys.readouterr().err


@contextmanager
def machines(repository: Path, folder: Path, count: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A cluster without replicas; gives its process and its address."""
    command = [sys.executable, str(CLUSTER), str(repository), str(count), "0"]
    with (
        (folder / "cluster.log").open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            found = next((line for line in process.stdout if line.startswith("address ")), "")
            assert found, (folder / "cluster.log").read_text()
            yield process, found.split()[1]
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)


@needs_ray
@long
def test_tasks_on_a_cluster_that_loses_a_machine(
    repository: Path, tmp_path: Path, record_property: Record
) -> None:
    """The same file as without a cluster; and exports of the same plan."""
    images = folder_of_images(tmp_path / "images", MANY, slow=True)
    outs = {name: tmp_path / f"{name}.jsonl" for name in ("here", "ray")}
    plans = {}
    for name, out in outs.items():
        (tmp_path / name).mkdir()
        score = {"model": "slow", "images": str(images), "out": str(out)}
        plans[name] = plan_of(tmp_path / name, repository, score)
    assert main(["score", "--plan", str(plans["here"])]) == 0
    with machines(repository, tmp_path, 2) as (cluster, address):
        command = [
            sys.executable,
            "-m",
            "penstock.cli",
            "score",
            "--plan",
            str(plans["ray"]),
            "--ray",
            address,
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as scoring:
            while not begun(outs["ray"]) and scoring.poll() is None:
                time.sleep(0.02)
            lost = scoring.poll() is None
            assert cluster.stdin is not None
            cluster.stdin.write("kill\n")
            cluster.stdin.flush()
            _, errors = scoring.communicate(timeout=300)
            assert scoring.returncode == 0, errors
    assert lost, "the machine went down while there was work: make it more"
    assert outs["ray"].read_text() == outs["here"].read_text()
    assert len(records(outs["ray"])) == MANY
    record_property("images scored as on one machine", f"{MANY:,}")


@needs_ray
def test_exports_as_tasks(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'repository = "models"\n[[export]]\nsource = "zoo:resnet20-cifar10"\ndense = true\nname = "dense"\n'
        '[[export]]\nsource = "nowhere"\nname = "never"\n'
    )
    command = [
        sys.executable,
        "-m",
        "penstock.cli",
        "export",
        "--plan",
        str(plan),
        "--ray",
        "local",
        "--json",
        "t.json",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    told = {each["name"]: each["result"] for each in json.loads((tmp_path / "t.json").read_text())["exports"]}
    assert told == {"dense": "made", "never": "failed"}, done.stderr
    assert (tmp_path / "models" / "dense" / "1" / "model.onnx").is_file()
