"""Images of one's own: a folder of image files for each class.

Either the images to learn from and those to test on come apart,

    root/train/<class>/*.png        root/test/<class>/*.png

or ``root/<class>/*.png`` holds all of them, and all four parts are drawn with the seed. Then an image's pixels say
whether a network may learn from it, whatever else is there: a set that grows takes no image from those learned from
into those that thresholds are set on, and images that are equal are on one side. (Fewer than `FEW` are drawn in exact
proportions instead.) Files that end in something
else than `SUFFIXES` are passed over, and so is what begins with a dot.

Every image is decoded when the set is loaded: N images take ``3 N size^2`` bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock.data.decoding import decode, squash
from penstock.data.images import ImageSet, Splits
from penstock.data.splitting import calibration_size, draw, hold_out, refuse_fewer, stratified
from penstock.errors import InvalidArgumentError, NotFoundError

PREFIX = "folder:"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SIZE = 224
LEARNING, TESTING = "train", "test"
HELD_OUT_SHARE, VALIDATION_SHARE = 0.3, 0.1  # of a set that does not come apart
FEW = 200


def load_folder(name: str, seed: int) -> Splits:
    """The set that a name like ``folder:pets?size=96`` stands for.

    Args:
        name: ``folder:``, a path, and if wanted ``?size=`` with the side to which images are squashed, else 224.
        seed: of validation, and of all parts where the set does not come apart.

    Raises:
        NotFoundError: no such folder.
        InvalidArgumentError: the size is no size, there are no classes, a class has no images, test has classes that
            train has not, an image cannot be read, or there are too few images.
        UnsupportedError: Pillow is not installed.
    """
    root, size = parse(name)
    if not root.is_dir():
        raise NotFoundError(f"no folder {str(root)!r}: {PREFIX} is followed by the path of one")
    parts = [part for part in (LEARNING, TESTING) if (root / part).is_dir()]
    if not parts:
        return _split(read_classes(root, class_folders(root), size), seed)
    if len(parts) == 1:
        (other,) = {LEARNING, TESTING} - set(parts)
        raise InvalidArgumentError(
            f"{root} has {parts[0]!r} but not {other!r}: add it, or put the folders of the classes into {root} itself"
        )
    learning, testing = root / LEARNING, root / TESTING
    classes = class_folders(learning)
    unknown = sorted(set(class_folders(testing)) - set(classes))
    if unknown:
        raise InvalidArgumentError(
            f"{testing} has classes that {learning} has not: {', '.join(unknown[:5])}; nobody could learn them"
        )
    return hold_out(read_classes(learning, classes, size), read_classes(testing, classes, size), seed)


def parse(name: str) -> tuple[Path, int]:
    """Path and size that a name like ``folder:pets?size=96`` states.

    Raises:
        InvalidArgumentError: there is no path, or the size is no size.
    """
    path, found, size = name.removeprefix(PREFIX).partition("?size=")
    if not path:
        raise InvalidArgumentError(
            f"{name!r} names no folder; write {PREFIX}PATH or {PREFIX}PATH?size={SIZE}"
        )
    if found and not (size.isascii() and size.isdigit() and int(size) > 0):
        raise InvalidArgumentError(f"{name!r}: size is {size!r}; it must be a positive number of pixels")
    return Path(path).expanduser(), int(size) if found else SIZE


def class_folders(root: Path) -> list[str]:
    """Names of the classes, sorted: the folders in ``root``.

    Raises:
        InvalidArgumentError: there are none.
    """
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if not names:
        raise InvalidArgumentError(
            f"{root} has no classes: put the images of each one into a folder of its own"
        )
    return names


def read_classes(root: Path, classes: Sequence[str], size: int) -> ImageSet:
    """All images of the classes; ``index`` counts them in the order of their paths.

    Raises:
        InvalidArgumentError: an image cannot be read, or a folder of a class has none.
        UnsupportedError: Pillow is not installed.
    """
    files = [_files(root / name) for name in classes]
    flat = [file for group in files for file in group]
    pixels = np.empty((len(flat), 3, size, size), np.uint8)
    for row, file in enumerate(flat):
        try:
            pixels[row] = decode(file, size, squash)
        except ValueError as error:
            raise InvalidArgumentError(f"{file}: {error}") from error
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(group) for group in files])
    return ImageSet(pixels, labels, tuple(classes), np.arange(len(flat), dtype=np.int64))


def _files(folder: Path) -> list[Path]:
    """Image files of one class; a folder that is not there is a class of which no image is."""
    if not folder.is_dir():
        return []
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != "."
    )
    if not files:
        raise InvalidArgumentError(
            f"{folder} has no images: remove it or add some; they end in {', '.join(SUFFIXES)}"
        )
    return files


def _split(whole: ImageSet, seed: int) -> Splits:
    refuse_fewer(whole, 10, "for four parts")
    if len(whole) >= FEW:
        return _split_by_pixels(whole, seed)
    held_out = round(len(whole) * HELD_OUT_SHARE)
    validation = round(len(whole) * VALIDATION_SHARE)
    calibration = calibration_size(held_out)
    sizes = (len(whole) - held_out - validation, validation, calibration, held_out - calibration)
    return Splits(*(whole.take(part) for part in stratified(whole.labels, sizes, seed)))


def _split_by_pixels(whole: ImageSet, seed: int) -> Splits:
    drawn = _drawn(whole, seed)
    held_out = drawn < HELD_OUT_SHARE
    validation = ~held_out & (drawn < HELD_OUT_SHARE + VALIDATION_SHARE)
    train, validating, unseen = (
        whole.take(np.flatnonzero(part)) for part in (~held_out & ~validation, validation, held_out)
    )
    calibration, test = draw(unseen, calibration_size(len(unseen)), seed)
    return Splits(train=train, validation=validating, calibration=calibration, test=test)


def _drawn(images: ImageSet, seed: int) -> npt.NDArray[np.float64]:
    """``[N]`` numbers in 0..1, each drawn by the seed and the image's pixels; the largest of each class is 1."""
    first = hashlib.sha256(f"{seed} {images.images.shape[1:]}".encode())
    numbers = np.empty(len(images))
    for row, image in enumerate(images.images):
        digest = first.copy()
        digest.update(np.ascontiguousarray(image).data)
        numbers[row] = int.from_bytes(digest.digest()[:8], "big") / 2**64
    for label in np.unique(images.labels):
        (members,) = np.nonzero(images.labels == label)
        numbers[members[numbers[members].argmax()]] = (
            1.0  # or nobody might learn what a rare class looks like
        )
    return numbers
