import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penstock.data import ImageSet
from penstock.learn.batches import Batches, cut_out, vary


def numbered(count: int) -> ImageSet:
    """Images that hold their own number, so that each can be recognised."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(4, axis=2).repeat(4, axis=3)
    labels = np.arange(count, dtype=np.int64) % 10
    return ImageSet(images, labels, tuple("0123456789"), np.arange(count, dtype=np.int64))


def seen(batches: Batches, epoch: int = 0) -> tuple[Tensor, Tensor]:
    batches.epoch = epoch
    images, labels, _ = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def drawn(images: Tensor, **settings: Any) -> Batches:
    """Training batches of given pixels."""
    labels = np.zeros(len(images), np.int64)
    source = ImageSet(images.numpy(), labels, ("a",), np.arange(len(images)))
    return Batches(source, len(images), training=True, **settings)


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


def test_a_batch_says_which_images_it_shows() -> None:
    batches = Batches(numbered(100), 32, training=True, seed=1)
    for images, labels, which in batches:
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), which)
        assert torch.equal(labels, which % 10)


def test_no_shift_and_no_mirror_change_nothing() -> None:
    images = random_images(0)
    assert torch.equal(vary(images, torch.zeros(2, 5, dtype=torch.int64), torch.zeros(5).bool(), 0), images)


@given(padding=st.integers(0, 3), seed=st.integers(0, 2**31))
def test_each_image_is_shifted_and_mirrored_as_it_is_told(padding: int, seed: int) -> None:
    images = random_images(seed)
    draw = torch.Generator().manual_seed(seed)
    shifts = torch.randint(0, 2 * padding + 1, (2, 5), generator=draw)
    mirrored = torch.rand(5, generator=draw) < 0.5
    varied = vary(images, shifts, mirrored, padding)
    assert varied.dtype == torch.uint8
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    for number, image in enumerate(varied):
        row, column = shifts[:, number]
        crop = padded[number, :, row : row + 5, column : column + 6]
        assert torch.equal(image, crop.flip(2) if mirrored[number] else crop)


@given(padding=st.integers(0, 2), flip=st.booleans(), view=st.integers(0, 40))
def test_a_view_varies_every_image_within_what_was_allowed(padding: int, flip: bool, view: int) -> None:
    images = random_images(view)
    shown = (drawn(images, padding=padding, flip=flip).show(view, torch.arange(5)) * 255).round()
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    for number, image in enumerate(shown):
        places = itertools.product(range(2 * padding + 1), repeat=2)
        crops = [padded[number, :, row : row + 5, column : column + 6] for row, column in places]
        if flip:
            crops += [crop.flip(2) for crop in crops]
        assert any(torch.equal(image, crop) for crop in crops)


def test_every_shift_and_both_sides_occur_equally_often() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 1] = 255
    batches = drawn(image.expand(8000, -1, -1, -1), padding=1, flip=True)
    where = batches.show(0, torch.arange(8000))[:, 0].mean(dim=0)
    # Nine shifts of the dot, in its own place or mirrored from column 1 to 3; column 2 is reached from both.
    expected = torch.tensor([0.5, 0.5, 1.0, 0.5, 0.5]) / 9
    for row in where[1:4]:
        torch.testing.assert_close(row, expected, rtol=0, atol=0.012)
    assert where[[0, 4]].sum() == 0


def in_order(batches: Batches, epoch: int) -> Tensor:
    """What an epoch shows, sorted by the images' places."""
    batches.epoch = epoch
    images, _, which = zip(*batches, strict=True)
    return torch.cat(images)[torch.cat(which).argsort()]


def test_epochs_show_the_views_in_turn_whatever_the_seed_and_the_batch_size() -> None:
    images = random_images(0, 40)
    style: dict[str, Any] = {"padding": 2, "flip": True, "views": 3}
    first = drawn(images, seed=0, **style)
    second = Batches(
        ImageSet(images.numpy(), np.zeros(40, np.int64), ("a",), np.arange(40)),
        8,
        training=True,
        seed=5,
        **style,
    )
    views = [first.show(view, torch.arange(40)) for view in range(3)]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(views, 2))
    for epoch in (4, 0, 1, 2, 3, 5):  # in any order: nothing of an epoch depends on the one before
        assert torch.equal(in_order(first, epoch), views[epoch % 3])
        assert torch.equal(in_order(second, epoch), views[epoch % 3])


def test_a_view_of_some_images_is_a_part_of_the_whole_view() -> None:
    batches = drawn(random_images(0, 20), padding=2, flip=True)
    index = torch.tensor([7, 3, 19])
    assert torch.equal(batches.show(4, index), batches.show(4, torch.arange(20))[index])


@given(count=st.integers(1, 40), size=st.integers(1, 20), devices=st.integers(1, 4), training=st.booleans())
def test_devices_share_every_batch(count: int, size: int, devices: int, training: bool) -> None:
    whole = [batch.which for batch in Batches(numbered(count), size, training=training, seed=2)]
    with pytest.MonkeyPatch.context() as patch:
        shares = []
        for rank in range(devices):
            patch.setattr("penstock.learn.batches._rank", lambda rank=rank: (rank, devices))
            shares.append(
                [batch.which for batch in Batches(numbered(count), size, training=training, seed=2)]
            )
    for number, which in enumerate(whole):
        assert torch.equal(torch.cat([share[number] for share in shares]).sort()[0], which.sort()[0])
    assert all(len(share) == len(whole) for share in shares)  # a device without a step would be waited for


@given(row=st.floats(0, 1), column=st.floats(0, 1), side=st.integers(1, 9))
def test_a_square_is_cut_out_where_it_lies_in_the_image(row: float, column: float, side: int) -> None:
    images = random_images(0, count=1)
    cut = cut_out(images, torch.tensor([[row], [column]], dtype=torch.float64), side)
    top, left = int(row * 5) - side // 2, int(column * 6) - side // 2
    expected = images.clone()
    expected[..., max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    assert torch.equal(cut, expected)


def test_squares_are_those_of_the_view_and_leave_shifts_and_mirrors_as_they_were() -> None:
    images = random_images(3)
    plain = drawn(images, padding=2, flip=True).show(4, torch.arange(5))
    cut = drawn(images, padding=2, flip=True, cutout=3).show(4, torch.arange(5))
    again = drawn(images, padding=2, flip=True, cutout=3).show(4, torch.arange(5))
    assert torch.equal(cut, again)
    assert not torch.equal(cut, plain)
    assert torch.equal(cut[cut > 0], plain[cut > 0])
