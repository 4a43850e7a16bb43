"""What an export starts from: a checkpoint, a member of a cascade, or one class's sub-architecture."""

from __future__ import annotations

from pathlib import Path

from penstock.errors import NotFoundError
from penstock.files import sha256
from penstock.nn.cascade_member import member_checkpoint
from penstock.nn.checkpoint import Checkpoint, find_source, load_source
from penstock.nn.class_network import class_checkpoint
from penstock.nn.sub_architectures import sub_architectures_file


def source_file(source: str, class_name: str | None) -> Path:
    """The file that an export reads.

    Args:
        source: as `penstock.nn.checkpoint.find_source` takes it; for a class, the run folder of a disentanglement or
            its file.
        class_name: whose sub-architecture; ``None``: the whole network.

    Raises:
        NotFoundError: there is no such file.
        UnsupportedError: no file holds that source.
    """
    if class_name is None:
        return find_source(source)
    file = sub_architectures_file(Path(source))
    if not file.is_file():
        raise NotFoundError(
            f"no sub-architectures at {file}: name the folder of a `penstock disentangle` run"
        )
    return file


def load(
    source: str, class_name: str | None = None, member: str | None = None, *, detector: bool = True
) -> tuple[Checkpoint, dict[str, str]]:
    """The network to export, and what it was: its name, without the folders of this machine, and its file's hash.

    Args:
        source: as `source_file` takes it, or a timing source, which is built.
        class_name: whose sub-architecture; ``None``: the whole network.
        member: of a cascade, which one; ``None``: both.
        detector: whether one is wanted: building that of a timing source takes long.

    Raises:
        PenstockError: the source is missing or damaged, or has no such class or member.
    """
    if member is not None:
        checkpoint, origin = load_source(source, detector=detector)
        return member_checkpoint(checkpoint, member), {**origin, "member": member}
    if class_name is None:
        return load_source(source, detector=detector)
    file = source_file(source, class_name)
    origin = {"name": Path(source).resolve().name, "sha256": sha256(file), "class": class_name}
    return class_checkpoint(file, class_name), origin
