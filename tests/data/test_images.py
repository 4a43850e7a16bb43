import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.data import ImageSet, Splits
from penstock.errors import InvalidArgumentError


def images(count: int, first: int = 0) -> ImageSet:
    index = np.arange(first, first + count, dtype=np.int64)
    pixels = np.broadcast_to((index % 256).astype(np.uint8)[:, None, None, None], (count, 1, 2, 2))
    return ImageSet(pixels, index % 3, ("a", "b", "c"), index)


@given(count=st.integers(1, 30), data=st.data())
def test_take_by_number_keeps_what_belongs_together(count: int, data: st.DataObject) -> None:
    which = data.draw(st.lists(st.integers(0, count - 1), max_size=20))
    taken = images(count).take(which)
    assert taken.index.tolist() == which
    assert taken.labels.tolist() == [number % 3 for number in which]
    assert taken.images[:, 0, 0, 0].tolist() == which


@given(mask=st.lists(st.booleans(), max_size=20))
def test_take_by_mask_equals_take_by_its_numbers(mask: list[bool]) -> None:
    whole = images(len(mask))
    chosen = np.array(mask, dtype=np.bool_)
    assert whole.take(chosen).index.tolist() == np.flatnonzero(chosen).tolist()


@pytest.mark.parametrize("which", [[3], [True, False], [0.5], "x"], ids=repr)
def test_take_refuses_what_is_not_there(which: object) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot take"):
        images(3).take(which)  # type: ignore[arg-type]


def test_floats_run_from_0_to_1() -> None:
    floats = images(256).floats()
    assert floats.dtype == np.float32
    assert floats.min() == 0
    assert floats.max() == 1


def test_images_of_another_type_or_shape_are_refused() -> None:
    good = images(3)
    with pytest.raises(InvalidArgumentError, match="uint8"):
        ImageSet(good.floats(), good.labels, good.class_names, good.index)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"labels are .* of shape \(2,\)"):
        ImageSet(good.images, good.labels[:2], good.class_names, good.index)
    with pytest.raises(InvalidArgumentError, match="labels run from 0 to 2; there are 2 classes"):
        ImageSet(good.images, good.labels, ("a", "b"), good.index)


def test_held_out_restores_the_order_of_the_source() -> None:
    source = images(10)
    splits = Splits(
        images(3), images(0), calibration=source.take([9, 1, 4]), test=source.take([0, 2, 3, 5, 6, 7, 8])
    )
    assert splits.held_out.index.tolist() == list(range(10))
    assert splits.class_names == source.class_names
