"""The images that a bundle's threshold is set on anew: of a data set, or whatever a folder holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from penstock import data
from penstock.data.folders import PREFIX
from penstock.data.unlabelled import image_files, read_unlabelled
from penstock.errors import InvalidArgumentError, NotFoundError
from penstock.manifest import Manifest

Images = npt.NDArray[np.uint8]


def clean_images(manifest: Manifest, where: str | None) -> tuple[Images, str]:
    """Honest images for a bundle, and what they are called, without the folders of this machine.

    Args:
        manifest: the bundle's; says which data set it was calibrated on.
        where: a folder of images, of which all count; a data set as `penstock.data.load` takes it, of which only the
            part counts that is kept for calibration; a folder with the files of the bundle's data set; or ``None``:
            those that ``PENSTOCK_DATA`` names.

    Returns:
        ``[N, C, H, W]`` uint8, and a name.

    Raises:
        NotFoundError: there are no such images.
        InvalidArgumentError: they are not for this model, or damaged.
        UnsupportedError: a library that reads them is not installed.
    """
    folder = None if where is None else Path(where).expanduser()
    if where is None or (folder is not None and folder.is_dir()):
        files = [] if folder is None else image_files(folder)
        if folder is not None and files:
            return read_unlabelled(files, manifest.input_shape), _shown(folder)
        return _of_set(manifest, _own_set(manifest, folder), folder)
    if where in data.NAMES or where.startswith(PREFIX):
        return _of_set(manifest, where, None)
    raise NotFoundError(
        f"no images at {where!r}: name a folder, one of the data sets {', '.join(data.NAMES)}, or {PREFIX}PATH for a "
        "folder of images per class"
    )


def _shown(folder: Path) -> str:
    """A folder's name, told from that of a data set, which is something else."""
    name = folder.resolve().name
    return f"{name}/" if name in data.NAMES or name.startswith(PREFIX) else name


def _own_set(manifest: Manifest, folder: Path | None) -> str:
    """Name of the data set that a bundle was calibrated on."""
    name = "" if manifest.calibration is None else manifest.calibration.data
    if name not in data.NAMES:
        looked = "no data was named" if folder is None else f"there are no image files in {folder}"
        raise NotFoundError(
            f"{looked}, and the bundle names no data set that could be found: name one, or a folder of images (--data)"
        )
    return name


def _of_set(manifest: Manifest, name: str, folder: Path | None) -> tuple[Images, str]:
    """What a data set keeps for calibration, if it has what the model takes and knows."""
    splits = data.load(name, folder=folder)
    images = splits.calibration.images
    shown = f"{PREFIX}{Path(name.removeprefix(PREFIX)).name}" if name.startswith(PREFIX) else name
    if images.shape[1:] != manifest.input_shape:
        raise InvalidArgumentError(
            f"the images of {shown} have shape {images.shape[1:]}; the model takes {manifest.input_shape}"
        )
    if splits.class_names != manifest.class_names:
        raise InvalidArgumentError(
            f"{shown} has the classes {_some(splits.class_names)}; the model knows {_some(manifest.class_names)}: "
            "images of other classes are no honest inputs"
        )
    return images, shown


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
