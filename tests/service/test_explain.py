"""Explanations add up, name what is strange, and never the server's files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from penstock.errors import InvalidArgumentError, NotFoundError, UnavailableError, UnsupportedError
from penstock.service import client
from penstock.service.client import PathClient

Images = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def explaining(tmp_path_factory: pytest.TempPathFactory, start: Any, add_model: Any) -> Iterator[Any]:
    """A server of models with a detector, and its repository."""
    folder = tmp_path_factory.mktemp("explaining") / "models"
    add_model(folder, "batched", detector=True)
    add_model(folder, "single", detector=True, single=True)
    add_model(folder, "spoilt", detector=True)
    add_model(folder, "old")
    with start(folder) as running:
        yield running, folder


@pytest.mark.parametrize("model", ["batched", "single"])
def test_parts_layers_and_filters_sum_to_the_served_score(
    explaining: Any, images: Images, model: str
) -> None:
    server, _ = explaining
    answer = client.infer(server.url, model, images)
    with PathClient(server.url) as paths:
        found = paths.explain(model, images, filters=6, classes=4)
    assert len(found) == len(images)
    for index, image in enumerate(found):
        assert image.score == pytest.approx(float(answer.anomaly_score[index, 0]), abs=1e-5)
        assert sum(image.parts.values()) == pytest.approx(image.score, abs=1e-4)
        layers = sum(layer.bits + layer.gates for layer in image.layers)
        assert layers + image.answer + image.baseline == pytest.approx(image.score, abs=1e-4)
        assert sum(each.contribution for each in image.filters) == pytest.approx(layers, abs=1e-6)
        contributions = [each.contribution for each in image.filters]
        assert contributions == sorted(contributions, reverse=True)
        opened = {(each.layer, each.filter): each.open for each in image.filters}
        assert [opened["conv1", 0], opened["conv2", 3]] == [
            bool(answer.path[index, 0]),
            bool(answer.path[index, 5]),
        ]
        assert list(image.nearest.values()) == sorted(image.nearest.values())
        assert image.class_name == ("ant", "bee", "cat", "dog")[answer.logits[index].argmax()]


def test_nearest_class_is_the_one_whose_usual_path_it_is(
    explaining: Any, images: Images, tables: Any
) -> None:
    server, _ = explaining
    path = client.infer(server.url, "batched", images[:1]).path[0]
    likelihood = tables["surprise"]
    odds = np.where(path == tables["usual"], 1 / (1 + np.exp(-likelihood)), 1 / (1 + np.exp(likelihood)))
    expected = -np.log(odds).mean(axis=1)
    with PathClient(server.url) as paths:
        nearest = paths.explain("batched", images[:1], classes=4)[0].nearest
    for place, name in enumerate(("ant", "bee", "cat", "dog")):
        assert nearest[name] == pytest.approx(expected[place], abs=1e-5)


def test_what_cannot_be_explained_is_refused(explaining: Any, images: Images) -> None:
    server, folder = explaining
    (folder / "spoilt" / "1" / "detector.npz").write_bytes(b"something else")
    with PathClient(server.url) as paths:
        with pytest.raises(UnsupportedError, match=r"no tables of its detector path-.*: export it again"):
            paths.explain("old", images)
        with pytest.raises(
            UnavailableError, match=r"detector\.npz was changed after it was loaded"
        ) as refusal:
            paths.explain("spoilt", images)
        assert str(folder) not in str(refusal.value)
        with pytest.raises(NotFoundError, match="nobody"):
            paths.explain("nobody", images)
        with pytest.raises(InvalidArgumentError, match=r"Expected \[N,3,8,8\]"):
            paths.explain("batched", images[:, :2])
        with pytest.raises(InvalidArgumentError, match="filters is 5000; expected 0 to 1000"):
            paths.explain("batched", images, filters=5000)
        images[2, 0, 0, 0] = np.nan
        with pytest.raises(InvalidArgumentError, match="image 2 holds NaN"):
            paths.explain("batched", images)


def test_damaged_tables_are_found_at_loading(tmp_path: Path, start: Any, add_model: Any) -> None:
    (add_model(tmp_path / "models", "damaged", detector=True) / "detector.npz").write_bytes(b"something else")
    with start(tmp_path / "models") as server:
        assert "detector.npz is damaged" in server.log.read_text()
