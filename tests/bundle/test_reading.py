"""Reading bundles: what is damaged, missing or of another schema is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from penstock.bundle import Bundle, read_bundle
from penstock.errors import BundleError, NotFoundError
from tests.bundle.made import LAYOUT, edit


def test_a_damaged_graph_is_refused(written: Bundle) -> None:
    with written.model_file.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"model\.onnx is damaged"):
        read_bundle(written.folder)


@pytest.mark.parametrize("name", ["model.onnx", "bundle.json"])
def test_a_missing_file_is_refused(written: Bundle, name: str) -> None:
    (written.folder / name).unlink()
    with pytest.raises(BundleError, match=f"has no {name}"):
        read_bundle(written.folder)


def test_a_missing_bundle_is_refused(repository: Path) -> None:
    with pytest.raises(NotFoundError, match="no bundle at"):
        read_bundle(repository / "net" / "1")


def test_another_schema_is_refused(written: Bundle) -> None:
    edit(written, schema=1)
    with pytest.raises(
        BundleError, match="schema 1; this version reads 5 and 6 and 7 and 8 and 9 and 10: export again"
    ):
        read_bundle(written.folder)


@pytest.mark.parametrize("schema", [5, 6, 7, 8, 9])
def test_schemas_before_the_last_are_read(schema: int, written: Bundle) -> None:
    file = written.folder / "bundle.json"
    old = json.loads(file.read_text())
    for key in ("passes",)[: schema < 7] + ("choices",)[: schema < 8]:
        del old[key]
    if schema < 9:
        del old["calibration"]["ranked_by"]
    for key in ("data", "class_thresholds", "class_images") if schema == 5 else ():
        del old["calibration"][key]
    file.write_text(json.dumps(old | {"schema": schema}))
    assert read_bundle(written.folder).manifest == written.manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": {}}, "missing 3 required"),
        ({"calibration": {"x": 1}}, "unexpected keyword argument 'x'"),
        ({"unknown": 1}, "unexpected keyword argument 'unknown'"),
        ({"input_shape": 3}, "input_shape is 3"),
        ({"input_shape": [3, 4]}, r"input_shape is \[3, 4\]"),
        ({"input_shape": [3, 4, 4.5]}, "input_shape is 4.5; expected int"),
        ({"input_shape": [3, 0, 4]}, r"input_shape is \(3, 0, 4\)"),
        ({"max_batch": "8"}, "max_batch is '8'; expected int"),
        ({"max_batch": True}, "max_batch is True; expected int"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"single": 1}, "single is 1; expected bool"),
        ({"class_names": "cat"}, "class_names is 'cat'"),
        ({"class_names": [1, 2]}, "class_names is 1; expected str"),
        ({"source": {"name": None}}, r"source\['name'\] is None; expected str"),
        ({"parity": {"logits": "small"}}, r"parity\['logits'\] is 'small'; expected float"),
        ({"parity": None}, "parity is None"),
        ({"lowering": None}, "lowering is None; expected str"),
        (
            {"layout": LAYOUT.to_json() | {"layers": [{"name": "conv", "filters": 4, "macs": 1.5}]}},
            "layout.layers.macs is 1.5; expected int",
        ),
    ],
    ids=str,
)
def test_a_manifest_that_cannot_be_is_refused(
    written: Bundle, change: dict[str, object], message: str
) -> None:
    edit(written, **change)
    with pytest.raises(BundleError, match="cannot be read") as refused:
        read_bundle(written.folder)
    assert re.search(message, str(refused.value).replace("\\", "")), refused.value


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"{", b"\xff"], ids=repr)
def test_a_damaged_manifest_is_refused(written: Bundle, content: bytes) -> None:
    (written.folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read"):
        read_bundle(written.folder)
