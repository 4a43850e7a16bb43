import io
from pathlib import Path

import numpy as np
import pytest

from penstock.paths import PathLayer, PathLayout, PathSet
from penstock.report.paths import draw_paths
from penstock.report.png import canvas, write_png


@pytest.mark.parametrize("name", ["paths.png", "new/folder/picture.whatever"])
def test_a_picture_is_a_png_whatever_its_name_and_folder(name: str, tmp_path: Path) -> None:
    layers = (PathLayer(name="a", filters=3, macs=10), PathLayer(name="b", filters=4, macs=20, sources=(0,)))
    bits = np.random.default_rng(0).integers(0, 2, (12, 7), dtype=np.uint8)
    paths = PathSet(PathLayout(layers=layers, fixed_macs=5, dense_macs=40), bits)
    draw_paths(paths, np.arange(12) % 2, ["one", "two"], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_half_a_picture_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, file = canvas(1, 1), tmp_path / "picture.png"
    write_png(figure, file)
    whole = file.read_bytes()

    def torn(content: io.BytesIO, **_: object) -> None:
        content.write(whole[:20])
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", torn)
    with pytest.raises(KeyboardInterrupt):
        write_png(figure, file)
    assert file.read_bytes() == whole
