from __future__ import annotations

import re

import numpy as np

from penstock.report.drawing import INK, SERIES, VARIABLES, Drawing, heat, name_classes, name_layers, to_svg


def drawn(alt: str) -> str:
    with Drawing(2.0) as figure:
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=SERIES[2], marker="o")
        left.set_title("A < B", color=INK)
        heat(right, np.array([[0.0, np.nan], [0.5, 1.0]]), 0, 1)
        return to_svg(figure, alt)


def test_colours_and_letters_are_left_to_the_page() -> None:
    svg = drawn("first")
    assert not any(placeholder in svg for placeholder in VARIABLES)
    assert "var(--series-3)" in svg
    assert "var(--ink)" in svg
    assert "DejaVu" not in svg
    assert ">A &lt; B</text>" in svg


def test_what_it_shows_is_told_in_words() -> None:
    assert 'role="img" aria-label="say &quot;&lt;&quot;"' in drawn('say "<"')


def test_it_is_drawn_the_same_twice_and_names_nothing_as_another_does() -> None:
    first, again, other = drawn("first"), drawn("first"), drawn("other")
    assert first == again
    names = [set(re.findall(r' id="([^"]*)"', svg)) for svg in (first, other)]
    assert names[0]
    assert not names[0] & names[1]


def test_it_loads_nothing() -> None:
    assert "http" not in drawn("first")


def test_of_many_layers_only_some_are_named() -> None:
    with Drawing(2.0) as figure:
        few, many = figure.subplots(1, 2)
        name_layers(few, ["a", "b"])
        name_layers(many, [f"layer{index}.conv" for index in range(100)])
        assert [label.get_text() for label in few.get_xticklabels()] == ["a", "b"]
        assert few.get_xticklabels()[0].get_rotation() == 0
        labels = [label.get_text() for label in many.get_xticklabels()]
        assert len(labels) == 25
        assert labels[1] == "layer4.conv"
        assert many.get_xlabel() == "layer, every 4th named"


def test_long_names_of_classes_stand_upright() -> None:
    with Drawing(2.0) as figure:
        short, long = figure.subplots(1, 2)
        name_classes(short, ["0", "1"])
        name_classes(long, ["cat", "dog"])
        assert short.get_xticklabels()[0].get_rotation() == 0
        assert long.get_xticklabels()[0].get_rotation() == 90
