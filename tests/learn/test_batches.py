import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penstock.data import ImageSet
from penstock.learn.batches import Batches, augment


def numbered(count: int) -> ImageSet:
    """Images that hold their own number, so that each can be recognised."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(4, axis=2).repeat(4, axis=3)
    labels = np.arange(count, dtype=np.int64) % 10
    return ImageSet(images, labels, tuple("0123456789"), np.arange(count, dtype=np.int64))


def seen(batches: Batches, epoch: int = 0) -> tuple[Tensor, Tensor]:
    batches.epoch = epoch
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def random_images(seed: int, count: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, 2, 5, 6), dtype=torch.uint8, generator=draw)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_is_a_function_of_seed_and_number(epoch: int) -> None:
    first, second = (
        Batches(numbered(100), 32, training=True, seed=3, padding=1, flip=True) for _ in range(2)
    )
    seen(first, 0)  # what was drawn before does not matter
    assert all(torch.equal(a, b) for a, b in zip(seen(first, epoch), seen(second, epoch), strict=True))


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0)])
def test_another_seed_or_epoch_gives_another_order(seed: int, epoch: int) -> None:
    wanted = seen(Batches(numbered(100), 50, training=True, seed=0))[0]
    assert not torch.equal(seen(Batches(numbered(100), 50, training=True, seed=seed), epoch)[0], wanted)


@given(count=st.integers(1, 60), size=st.integers(1, 70))
def test_training_sees_whole_batches_and_no_image_twice(count: int, size: int) -> None:
    batches = Batches(numbered(count), size, training=True)
    images, labels = seen(batches)
    numbers = (images[:, 0, 0, 0] * 255).round().long()
    assert len(set(numbers.tolist())) == len(numbers) == len(batches) * min(size, count)
    assert count - len(numbers) < min(size, count)
    assert torch.equal(labels, numbers % 10)


@given(count=st.integers(1, 60), size=st.integers(1, 70))
def test_evaluation_sees_every_image_once_in_order(count: int, size: int) -> None:
    batches = Batches(numbered(count), size)
    images, labels = seen(batches)
    assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), torch.arange(count))
    assert torch.equal(labels, torch.arange(count) % 10)
    assert len(list(batches)) == len(batches)


def test_evaluation_does_not_augment() -> None:
    images = ImageSet(random_images(0).numpy(), np.zeros(5, np.int64), ("a",), np.arange(5))
    assert torch.equal(seen(Batches(images, 2, padding=2, flip=True))[0], random_images(0).float() / 255)


def test_images_come_as_floats_from_0_to_1() -> None:
    images, labels = seen(Batches(numbered(256), 256, training=True))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert (images.min().item(), images.max().item()) == (0, 1)


def test_no_shift_and_no_mirror_change_nothing() -> None:
    images = random_images(0)
    assert torch.equal(augment(images, padding=0, flip=False, generator=torch.Generator()), images)


@given(padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 2**31))
def test_each_image_is_shifted_by_up_to_the_padding_and_perhaps_mirrored(
    padding: int, flip: bool, seed: int
) -> None:
    images = random_images(seed)
    varied = augment(images, padding=padding, flip=flip, generator=torch.Generator().manual_seed(seed))
    assert varied.dtype == torch.uint8
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    shifts = list(itertools.product(range(2 * padding + 1), repeat=2))
    for number, image in enumerate(varied):
        crops = [padded[number, :, row : row + 5, column : column + 6] for row, column in shifts]
        if flip:
            crops += [crop.flip(2) for crop in crops]
        assert any(torch.equal(image, crop) for crop in crops)


def test_every_shift_and_both_sides_occur_equally_often() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 1] = 1
    varied = augment(image.expand(8000, -1, -1, -1), padding=1, flip=True, generator=torch.Generator())
    where = varied[:, 0].float().mean(dim=0)
    # Nine shifts of the dot, in its own place or mirrored from column 1 to 3; column 2 is reached from both.
    expected = torch.tensor([0.5, 0.5, 1.0, 0.5, 0.5]) / 9
    for row in where[1:4]:
        torch.testing.assert_close(row, expected, rtol=0, atol=0.012)
    assert where[[0, 4]].sum() == 0
