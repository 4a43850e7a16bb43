from pathlib import Path

import numpy as np
import pytest

from penstock.report.disentangle import draw_confusions, draw_depth, pairs

PNG = b"\x89PNG\r\n\x1a\n"


def figures(layers: int) -> dict[str, object]:
    curve = list(np.linspace(0.2, 0.8, layers))
    return {
        "layers": [f"conv{index}" for index in range(layers)],
        "hits": [{"mask_rate": 0.05, "mean": curve, "error": [0.01] * layers}],
        "similarity_by_layer": curve,
        "expected_similarity_by_layer": curve,
        "concepts": {"diversity_by_layer": curve, "whole_by_layer": curve},
        "agreement": {
            "spearman": 0.5,
            "similarity": [[1.0, 0.3, 0.5], [0.3, 1.0, 0.7], [0.5, 0.7, 1.0]],
            "confusion": [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]],
        },
    }


def test_networks_of_different_depth_share_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "new" / "depth.png"
    draw_depth({"plain": figures(3), "deep": figures(9)}, file)
    assert file.read_bytes().startswith(PNG)
    without = figures(3) | {"hits": None}
    draw_depth({"plain": without}, file)
    assert file.read_bytes().startswith(PNG)


def test_similarity_is_drawn_against_confusion(tmp_path: Path) -> None:
    file = tmp_path / "confusions.png"
    draw_confusions(
        {str(count): figures(count) for count in (3, 4, 5, 6)}, file
    )  # one row and a part of another
    assert file.read_bytes().startswith(PNG)


def test_every_pair_of_classes_is_one_point_with_confusions_of_both_ways() -> None:
    agreement = figures(1)["agreement"]
    assert isinstance(agreement, dict)
    similar, confused = pairs(agreement)
    assert similar.tolist() == [0.3, 0.5, 0.7]
    assert confused == pytest.approx([0.15, 0.2, 0.2])
