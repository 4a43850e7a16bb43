import numpy as np
import pytest
import torch

from penstock.data import ImageSet, load
from penstock.errors import InvalidArgumentError
from penstock.learn.class_streams import ClassStreams


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("digits").train


def test_own_images_are_of_the_class_and_the_others_of_others(digits: ImageSet) -> None:
    batch = ClassStreams(digits, 4, others=3).step(5, [2, 7])
    assert batch.images.shape == (14, 1, 8, 8)
    assert batch.rows.tolist() == [2] * 7 + [7] * 7
    own = torch.tensor([True] * 4 + [False] * 3).repeat(2)
    assert torch.equal(batch.labels == batch.rows, own)
    plain = ClassStreams(digits, 4, others=3)
    for image, label in zip(batch.images, batch.labels, strict=True):
        of_class = torch.from_numpy(digits.images[digits.labels == int(label)]).float() / 255
        assert (of_class == image).flatten(1).all(1).any()  # neither shifted nor mirrored unless asked for
    assert len(plain.counts) == 10


def test_what_a_class_gets_does_not_depend_on_its_company_nor_on_what_was_asked_before(
    digits: ImageSet,
) -> None:
    style = {"others": 2, "seed": 3, "padding": 1, "flip": True}
    together = ClassStreams(digits, 6, **style).step(40, [1, 8, 4])  # type: ignore[arg-type]
    alone = ClassStreams(digits, 6, **style).step(40, [8])  # type: ignore[arg-type]
    assert torch.equal(together.images[8:16], alone.images)
    assert torch.equal(together.labels[8:16], alone.labels)


def test_a_lap_shows_every_image_once(digits: ImageSet) -> None:
    streams = ClassStreams(digits, 5, most=15)
    laps = [torch.cat([streams.step(3 * lap + part, [6]).images for part in range(3)]) for lap in (0, 1)]
    first, second = ({image.numpy().tobytes() for image in lap} for lap in laps)
    assert len(first) == 15
    assert first == second
    assert not torch.equal(*laps)
    assert streams.counts[6] == 15


def test_a_batch_may_span_laps_and_vary_images(digits: ImageSet) -> None:
    streams = ClassStreams(digits, 40, most=15, padding=2, flip=True)
    images = streams.step(0, [0]).images
    assert len(images) == 40
    assert len({image.numpy().tobytes() for image in images}) > 30


def test_a_class_without_images_is_named(digits: ImageSet) -> None:
    without = digits.take(np.flatnonzero(digits.labels != 4))
    with pytest.raises(InvalidArgumentError, match="no training image of class '4'"):
        ClassStreams(without, 4)
