from pathlib import Path

import numpy as np
import pytest

from penstock.paths import PathLayer, PathLayout, PathSet
from penstock.report.disentangle import draw_depth, draw_similarity, draw_tasks

PNG = b"\x89PNG\r\n\x1a\n"


def figures(layers: int) -> dict[str, object]:
    curve = list(np.linspace(0.2, 0.8, layers))
    return {
        "layers": [f"conv{index}" for index in range(layers)],
        "hits": [{"mask_rate": 0.05, "mean": curve, "error": [0.01] * layers}],
        "similarity_by_layer": curve,
        "expected_similarity_by_layer": curve,
        "concepts": {"diversity_by_layer": curve, "whole_by_layer": curve},
        "tasks": {"yes": [[1.0, 0.1], [0.2, 0.9]]},
    }


def test_networks_of_different_depth_share_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "new" / "depth.png"
    draw_depth({"plain": figures(3), "deep": figures(9)}, file)
    assert file.read_bytes().startswith(PNG)
    without = figures(3) | {"hits": None}
    draw_depth({"plain": without}, file)
    assert file.read_bytes().startswith(PNG)


@pytest.mark.parametrize("kind", ["similarity", "tasks"])
def test_matrices_are_drawn(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"{kind}.png"
    if kind == "tasks":
        draw_tasks(figures(2), ["cat", "dog"], file)
    else:
        layout = PathLayout(layers=(PathLayer(name="a", filters=3, macs=1),), fixed_macs=0, dense_macs=1)
        bits = np.array([[1, 1, 0], [0, 1, 1]], dtype=np.uint8)
        draw_similarity(PathSet(layout, bits), ["cat", "dog"], file)
    assert file.read_bytes().startswith(PNG)
