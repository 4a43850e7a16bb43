import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from penstock.data import load
from penstock.data.folders import parse
from penstock.errors import InvalidArgumentError, NotFoundError, UnsupportedError

Image = pytest.importorskip("PIL.Image")

Write = Callable[..., None]


def write(folder: Path, count: int, *, level: int = 0, suffix: str = "png", mode: str = "RGB") -> None:
    """Images of one grey level each, counting up from ``level``; no two folders need to share levels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = Image.new("L", (9 + number, 7), level + number).convert(mode)
        image.save(folder / f"{number:03}.{suffix}", **({"lossless": True} if suffix == "webp" else {}))


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """Two classes, those to learn from and those to test on apart."""
    for place, (part, count) in enumerate((("train", 20), ("test", 8))):
        write(tmp_path / "pets" / part / "cat", count, level=100 * place)
        write(tmp_path / "pets" / part / "dog", count, level=100 * place + 50)
    return tmp_path / "pets"


def test_a_set_that_comes_apart_stays_apart(apart: Path) -> None:
    splits = load(f"folder:{apart}?size=16")
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    assert [len(part) for part in parts] == [36, 4, 8, 8]
    assert splits.class_names == ("cat", "dog")
    for part, base in zip(parts, (0, 0, 100, 100), strict=True):
        assert part.images.shape[1:] == (3, 16, 16)
        # Each image is one grey level: 0..19 and 50..69 to learn from, 100..107 and 150..157 to test on.
        levels = part.images[:, 0, 0, 0].astype(int) - base
        assert np.array_equal(part.images, np.broadcast_to(part.images[:, :1, :1, :1], part.images.shape))
        assert np.array_equal(levels >= 50, part.labels == 1)
        count = 20 if base == 0 else 8
        assert np.array_equal(part.index, levels - 50 * part.labels + count * part.labels)


def test_a_set_in_one_piece_is_split_by_the_seed(tmp_path: Path) -> None:
    for place, suffix in enumerate(("jpg", "webp", "JPEG")):
        write(tmp_path / f"class{place}", 20, level=30 * place, suffix=suffix, mode="L")
    first, again, other = (load(f"folder:{tmp_path}?size=8", seed=seed) for seed in (0, 0, 1))
    parts = (first.train, first.validation, first.calibration, first.test)
    assert [len(part) for part in parts] == [36, 6, 9, 9]
    assert sorted(np.concatenate([part.index for part in parts]).tolist()) == list(range(60))
    assert [np.bincount(part.labels).tolist() for part in parts] == [[12] * 3, [2] * 3, [3] * 3, [3] * 3]
    assert first.test.index.tolist() == again.test.index.tolist() != other.test.index.tolist()


def test_a_set_that_grows_shows_no_image_it_learned_from_to_thresholds(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        write_noise(tmp_path / label, range(200))

    def parts() -> list[set[bytes]]:
        found = load(f"folder:{tmp_path}?size=4")
        named = (found.train, found.validation, found.calibration, found.test)
        return [{image.tobytes() for image in part.images} for part in named]

    before = parts()
    assert sum(map(len, before)) == 400
    assert [len(part) / 400 for part in before] == pytest.approx([0.6, 0.1, 0.15, 0.15], abs=0.06)
    write_noise(tmp_path / "cat", range(-50, 0))  # before and between the others
    write_noise(tmp_path / "dog", range(300, 320))
    after = parts()
    assert sum(map(len, after)) == 470
    assert before[0] <= after[0]
    assert before[1] <= after[1]
    assert not (before[0] | before[1]) & (after[2] | after[3])


def write_noise(folder: Path, numbers: range) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        seed = [number + 1000, *folder.name.encode()]
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number + 1000}.png")


def test_size_is_224_if_none_is_stated(apart: Path) -> None:
    assert parse(f"folder:{apart}") == (apart, 224)
    assert parse("folder:~?size=96") == (Path.home(), 96)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder:", "names no folder"),
        ("folder:?size=3", "names no folder"),
        ("folder:pets?size=", "size is ''"),
        ("folder:pets?size=0", "size is '0'"),
        ("folder:pets?size=-3", "size is '-3'"),
        ("folder:pets?size=2²", "size is '2²'"),
    ],
)
def test_a_name_without_path_or_with_no_size_is_refused(name: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        load(name)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no folder '.*nowhere'"):
        load(f"folder:{tmp_path}/nowhere")


def test_half_of_a_set_that_comes_apart_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat", 3)
    with pytest.raises(InvalidArgumentError, match="has 'train' but not 'test'"):
        load(f"folder:{tmp_path}")


def test_a_folder_without_classes_or_a_class_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(InvalidArgumentError, match="has no classes"):
        load(f"folder:{tmp_path}")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    with pytest.raises(InvalidArgumentError, match=r"cat has no images: .*\.webp"):
        load(f"folder:{tmp_path}")


def test_classes_that_are_only_in_test_are_named(apart: Path) -> None:
    write(apart / "test" / "axolotl", 1)
    with pytest.raises(InvalidArgumentError, match=r"test has classes that .*train has not: axolotl"):
        load(f"folder:{apart}")


def test_a_class_without_test_images_keeps_its_label(apart: Path) -> None:
    for file in (apart / "test" / "cat").iterdir():
        file.unlink()
    (apart / "test" / "cat").rmdir()
    splits = load(f"folder:{apart}?size=8")
    assert splits.test.class_names == ("cat", "dog")
    assert set(splits.test.labels.tolist()) == {1}


def test_an_image_that_cannot_be_read_is_named(apart: Path) -> None:
    (apart / "train" / "dog" / "005.png").write_bytes(b"no image")
    with pytest.raises(InvalidArgumentError, match=r"dog/005\.png: it cannot be read as an image"):
        load(f"folder:{apart}?size=8")


@pytest.mark.parametrize(
    ("train", "test", "message"), [(1, 5, "to learn from"), (5, 1, "calibrate and test")]
)
def test_too_few_images_are_refused(tmp_path: Path, train: int, test: int, message: str) -> None:
    write(tmp_path / "train" / "cat", train)
    write(tmp_path / "test" / "cat", test)
    with pytest.raises(InvalidArgumentError, match=rf"1 images .*{message}"):
        load(f"folder:{tmp_path}?size=8")


def test_a_handful_in_one_piece_is_refused_and_ten_are_enough(tmp_path: Path) -> None:
    write(tmp_path / "cat", 9)
    with pytest.raises(InvalidArgumentError, match="9 images for four parts are too few; at least 10"):
        load(f"folder:{tmp_path}?size=8")
    write(tmp_path / "cat", 10)
    splits = load(f"folder:{tmp_path}?size=8")
    assert [len(part) for part in (splits.train, splits.validation, splits.calibration, splits.test)] == [
        6,
        1,
        1,
        2,
    ]


def test_without_pillow_the_extra_is_named(apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnsupportedError, match=r"penstock\[train\]"):
        load(f"folder:{apart}")
