import dataclasses
import fcntl
import json
import re
import shutil
from pathlib import Path
from threading import Barrier, Event, Thread
from time import sleep
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import bundle, bundle_writing, standing_config
from penstock.bundle import Bundle, Calibration, Interface, Manifest, config_text, read_bundle, versions
from penstock.bundle_writing import write_bundle, write_next_version
from penstock.errors import BundleError, InvalidArgumentError, NotFoundError
from penstock.files import sha256
from penstock.manifest import Choice, TunedStage, Tuning
from penstock.paths import PathLayer, PathLayout
from penstock.standing_config import edited, misfit

onnx = pytest.importorskip("onnx")

LAYOUT = PathLayout(layers=(PathLayer(name="conv", filters=4, macs=100),), fixed_macs=10, dense_macs=100)
LOST = Tuning(
    provider="cpu",
    batch=1,
    threads=1,
    tried_ms={"masked": 3.0},
    dense_ms=2.0,
    chosen_ms=2.5,
    layers={"conv": "masked"},
    declined=(),
)


def write_model(path: Path, value: float) -> Path:
    """A graph that adds a number: as good as any other here."""
    helper = onnx.helper
    shape = [1, 3, 4, 4]
    graph = helper.make_graph(
        [helper.make_node("Add", ["images", "value"], ["logits"])],
        "adds",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor("value", onnx.TensorProto.FLOAT, [], [value])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def manifest(model_sha256: str, **change: Any) -> Manifest:
    made = Manifest(
        model_sha256=model_sha256,
        source={"name": "test", "sha256": "0" * 64},
        input_shape=(3, 4, 4),
        class_names=("cat", "dog"),
        layout=LAYOUT,
        lowering="masked",
        max_batch=8,
        single=False,
        parity={"logits": 1e-6},
        calibration=Calibration(detector="path", target_fpr=0.05, threshold=1.5, images=499, source="graph"),
        versions={"penstock": "0"},
    )
    return dataclasses.replace(made, **change)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "source.onnx", 1.0)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def written(repository: Path, model: Path) -> Bundle:
    return write_bundle(
        repository, "net", manifest(sha256(model)), model.read_bytes(), also={"notes.txt": "kept"}
    )


def edit(bundle_: Bundle, **change: object) -> None:
    file = bundle_.folder / bundle.MANIFEST_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def test_a_bundle_is_read_as_it_was_written(written: Bundle, repository: Path, model: Path) -> None:
    assert written.folder == repository / "net" / "1"
    again = read_bundle(written.folder)
    assert again.manifest == manifest(sha256(model))
    assert again.model_file.read_bytes() == model.read_bytes()
    assert (again.folder / "notes.txt").read_text() == "kept"
    assert (repository / "net" / "labels.txt").read_text() == "cat\ndog\n"
    assert sorted(entry.name for entry in (repository / "net").iterdir()) == [
        "1",
        "config.pbtxt",
        "labels.txt",
    ]


@given(
    names=st.lists(st.text(max_size=10), max_size=4),
    parity=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 999), st.integers(1, 999)),
    calibrated=st.booleans(),
)
def test_manifest_round_trip(
    names: list[str], parity: dict[str, float], shape: tuple[int, int, int], calibrated: bool
) -> None:
    made = manifest("0" * 64, class_names=tuple(names), parity=parity, input_shape=shape)
    if not calibrated:
        made = dataclasses.replace(made, calibration=None)
    assert Manifest.from_json(made.to_json()) == made


def test_versions_count_up_and_ignore_what_is_no_version(written: Bundle, model: Path) -> None:
    home = written.folder.parent
    for name in ("007", ".9.tmp", "old", "7a"):
        (home / name).mkdir()
    (home / "4").write_text("a file, which takes the number all the same")
    assert write_bundle(home.parent, "net", manifest(sha256(model)), model.read_bytes()).folder.name == "5"
    assert versions(home) == [1, 5]
    assert versions(home / "nowhere") == []


@pytest.mark.parametrize("also", [{"notes.txt": 3}, {"nowhere/notes.txt": "text"}], ids=str)
def test_a_failure_on_the_way_leaves_nothing(repository: Path, model: Path, also: dict[str, Any]) -> None:
    with pytest.raises((TypeError, OSError)):
        write_bundle(repository, "net", manifest(sha256(model)), model.read_bytes(), also=also)
    assert list((repository / "net").iterdir()) == []


def test_a_manifest_of_another_model_is_refused(repository: Path, model: Path) -> None:
    with pytest.raises(BundleError, match="sha256"):
        write_bundle(repository, "net", manifest("0" * 64), model.read_bytes())
    assert list((repository / "net").iterdir()) == []


def test_two_exports_at_once_get_two_versions_where_folders_cannot_be_locked(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have chosen number 1 before either is there."""

    def refuse(*_: object) -> None:
        raise OSError("no locks on this file system")

    monkeypatch.setattr(fcntl, "flock", refuse)
    barrier, numbers = Barrier(2, timeout=20), bundle.numbers_taken
    calls: list[list[int]] = []

    def choose_together(home: Path) -> list[int]:
        calls.append(found := numbers(home))
        if len(calls) <= 2:
            barrier.wait()
        return found

    monkeypatch.setattr(bundle_writing, "numbers_taken", choose_together)
    written: list[Bundle] = []

    def export(value: float) -> None:
        source = write_model(tmp_path / f"{value}.onnx", value)
        written.append(write_bundle(repository, "net", manifest(sha256(source)), source.read_bytes()))

    threads = [Thread(target=export, args=(value,)) for value in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.folder.name for one in written) == ["1", "2"]
    assert len({one.manifest.model_sha256 for one in written}) == 2
    assert versions(repository / "net") == [1, 2]


@pytest.mark.parametrize(
    "change",
    [{"class_names": ("cat", "cow")}, {"input_shape": (3, 8, 8)}, {"max_batch": 4}, {"single": True}],
    ids=str,
)
def test_an_export_with_another_configuration_is_refused(
    written: Bundle, model: Path, change: dict[str, Any]
) -> None:
    home = written.folder.parent
    before = (home / "config.pbtxt").read_text()
    with pytest.raises(InvalidArgumentError, match="choose another --name than 'net'"):
        write_bundle(home.parent, "net", manifest(sha256(model), **change), model.read_bytes())
    assert versions(home) == [1]
    assert (home / "config.pbtxt").read_text() == before


def test_without_a_version_the_configuration_belongs_to_nobody(written: Bundle, model: Path) -> None:
    """As after a version was removed, or an export killed right after it wrote the configuration."""
    home = written.folder.parent
    shutil.rmtree(written.folder)
    other = manifest(sha256(model), class_names=("cat", "cow"), single=True)
    assert misfit(home, Interface.of(other)) is None
    assert write_bundle(home.parent, "net", other, model.read_bytes()).folder.name == "1"
    assert (home / "config.pbtxt").read_text() == config_text("net", Interface.of(other))
    assert (home / "labels.txt").read_text() == "cat\ncow\n"
    found = misfit(home, Interface.of(written.manifest))
    assert found is not None
    assert found.file == home / "config.pbtxt"


EDITS: dict[str, tuple[str, str]] = {
    "instances": ("$", "\ninstance_group [{ count: 2 kind: KIND_CPU }]"),
    "patience": ("dynamic_batching { }", "dynamic_batching { max_queue_delay_microseconds: 100 }"),
    "smaller batches": ("max_batch_size: 8", "max_batch_size: 4 # what the memory allows"),
    "fewer outputs": (
        r"output \[.*\]\n(?=dyn)",
        "output { name: 'logits', data_type: TYPE_FP32, dims: 2 };\n",
    ),
    "no name": ('name: "net"', ""),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_configuration_stays_and_further_versions_go_by_it(
    edit: tuple[str, str], written: Bundle, model: Path
) -> None:
    config = written.folder.parent / "config.pbtxt"
    text = re.sub(*edit, config.read_text(), count=1, flags=re.DOTALL)
    assert text != config.read_text()
    config.write_text(text)
    labels = config.with_name("labels.txt")
    labels.write_text("Katze\nHund\n")
    interface = Interface.of(written.manifest)
    assert edited(config.parent, interface) == [config, labels]
    new = write_bundle(config.parent.parent, "net", written.manifest, model.read_bytes())
    assert new.folder.name == "2"
    assert (config.read_text(), labels.read_text()) == (text, "Katze\nHund\n")


@pytest.mark.parametrize(
    ("file", "edit", "change", "message"),
    [
        ("config", ("TYPE_FP32", "TYPE_UINT8"), {}, "input 'images' of TYPE_UINT8 .3, 4, 4., and the graph TYPE_FP32"),
        ("config", ("", ""), {"input_shape": (3, 8, 8)}, r"'images' of TYPE_FP32 .3, 4, 4., and the graph .*8, 8"),
        ("config", ("", ""), {"single": True}, "'images' of .*, and the graph .*1, 3, 4, 4"),
        ("config", ('"logits"', '"answers"'), {}, "output 'answers' of TYPE_FP32 .2., and the graph no such tensor"),
        ("config", ("max_batch_size: 8", "max_batch_size: 9"), {}, "max_batch_size 9, and the export .* of 8"),
        ("config", ("", ""), {"max_batch": 4}, "max_batch_size 8, and the export a --max-batch of 4"),
        ("config", ('name: "net"', 'name: "other"'), {}, "it is of the model 'other'"),
        ("config", ("input \\[", "input ["), {"max_batch": 8}, None),
        ("config", ("output \\[", "output {"), {}, "it cannot be read, line "),
        ("labels", ("dog", "dog\ncow"), {}, "it has 3 lines, and there are 2 classes"),
        ("labels", ("dog", "Hund"), {"class_names": ("cat", "cow")}, "its names are of other classes"),
    ],
)  # fmt: skip
def test_an_edited_file_that_contradicts_a_version_is_refused(
    file: str,
    edit: tuple[str, str],
    change: dict[str, Any],
    message: str | None,
    written: Bundle,
    model: Path,
) -> None:
    home = written.folder.parent
    path = home / {"config": "config.pbtxt", "labels": "labels.txt"}[file]
    mark = "# edited\n" if file == "config" else ""
    path.write_text(mark + re.sub(*edit, path.read_text(), count=1))
    wanted = manifest(sha256(model), **change)
    if message is None:
        assert write_bundle(home.parent, "net", wanted, model.read_bytes()).folder.name == "2"
        return
    with pytest.raises(InvalidArgumentError, match=f"was edited and contradicts this export: .*{message}"):
        write_bundle(home.parent, "net", wanted, model.read_bytes())
    assert versions(home) == [1]


def test_a_configuration_of_versions_that_others_put_there_counts_as_edited(
    written: Bundle, model: Path
) -> None:
    home = written.folder.parent
    (written.folder / "bundle.json").unlink()
    new = manifest(sha256(model), max_batch=16)
    assert write_bundle(home.parent, "net", new, model.read_bytes()).folder.name == "2"
    assert "max_batch_size: 8" in (home / "config.pbtxt").read_text()


def test_of_two_first_exports_at_once_the_other_finds_the_configuration_taken(
    repository: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would replace it under the version of the first, which is about to appear."""
    configured, configure = Event(), standing_config.configure

    def configure_and_dawdle(home: Path, interface: Interface) -> None:
        configure(home, interface)
        configured.set()
        sleep(0.2)

    monkeypatch.setattr(bundle_writing, "configure", configure_and_dawdle)
    first = Thread(target=write_bundle, args=(repository, "net", manifest(sha256(model)), model.read_bytes()))
    first.start()
    assert configured.wait(20)
    with pytest.raises(InvalidArgumentError, match="choose another --name than 'net'"):
        write_bundle(repository, "net", manifest(sha256(model), single=True), model.read_bytes())
    first.join()
    assert versions(repository / "net") == [1]
    assert "max_batch_size: 8" in (repository / "net" / "config.pbtxt").read_text()


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


def test_what_tuning_measured_of_each_stage_is_kept_and_may_be_missing(written: Bundle) -> None:
    stage = TunedStage(
        layers=("conv1", "conv2"), tried_ms={"masked": 3.0, "gathered": 2.5}, chosen="gathered"
    )
    tuning = dataclasses.replace(LOST, stages=(stage,))
    tuned = dataclasses.replace(written.manifest, tuning=tuning)
    assert Manifest.from_json(tuned.to_json()) == tuned
    old = json.loads(tuned.to_json()) | {"schema": 9}
    del old["tuning"]["stages"]
    assert Manifest.from_json(json.dumps(old)).tuning == LOST
    assert str(stage) == "at conv1 and 1 more: masked 3.000 ms, gathered 2.500 ms, taken gathered"
    alone = dataclasses.replace(stage, layers=("conv1",), tried_ms={})
    assert str(alone) == "at conv1: taken gathered"


def test_a_routed_graph_without_a_choice_is_static() -> None:
    several = Choice(place="conv1", images=(3, 0, 4))
    alone = Choice(place="conv3", images=(7,))
    assert [manifest("0" * 64, choices=choices).form for choices in ((), (alone,), (several, alone))] == [
        "masked",
        "masked, static",
        "masked",
    ]
    assert [str(each) for each in (several, alone)] == [
        "at conv1: chosen for 3, 0, 4 images",
        "at conv3: static",
    ]


def test_each_image_is_compared_with_the_threshold_of_its_class() -> None:
    common = Calibration(detector="path", target_fpr=0.05, threshold=1.5, images=499, source="graph")
    assert common.thresholds_of(np.array([0, 1, 1])).tolist() == [1.5, 1.5, 1.5]
    own = dataclasses.replace(common, class_thresholds=(1.0, 2.0), class_images=(200, 299))
    assert own.thresholds_of(np.array([0, 1, 1])).tolist() == [1.0, 2.0, 2.0]
    with pytest.raises(InvalidArgumentError, match="1 class_thresholds for 2 classes"):
        manifest("", calibration=dataclasses.replace(own, class_thresholds=(1.0,)))


def test_the_record_of_a_dense_network_that_won_is_its_own() -> None:
    won = LOST.of_dense()
    assert (won.chosen_ms, won.ratio, won.layers) == (2.0, 1.0, {})
    assert won.tried_ms == {"masked": 3.0, "tuned": 2.5}


def test_the_next_version_needs_no_other_configuration(written: Bundle) -> None:
    config = written.folder.parent / "config.pbtxt"
    config.write_text(config.read_text() + "# edited\n")
    content = written.model_file.read_bytes()
    new = write_next_version(written, written.manifest, content, {"notes.txt": b"more"})
    assert new.folder == written.folder.parent / "2"
    assert config.read_text().endswith("# edited\n")
    assert (new.folder / "notes.txt").read_text() == "more"
    other = dataclasses.replace(written.manifest, max_batch=9)
    with pytest.raises(InvalidArgumentError, match="the same inputs and outputs"):
        write_next_version(written, other, content, {})
    assert versions(config.parent) == [1, 2]


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


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "näme", "a\n"])
def test_names_that_cannot_be_folders_are_refused(repository: Path, model: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="model name"):
        write_bundle(repository, name, manifest(sha256(model)), model.read_bytes())
    assert not repository.exists()


def test_configuration_of_a_graph_that_takes_batches() -> None:
    text = config_text("net", Interface.of(manifest("")))
    assert 'name: "net"' in text
    assert "max_batch_size: 8" in text
    assert '{ name: "images" data_type: TYPE_FP32 dims: [3, 4, 4] format: FORMAT_NCHW }' in text
    assert '{ name: "path" data_type: TYPE_UINT8 dims: [4] }' in text
    assert "penstock_max_batch" not in text
    assert text.endswith("]\ndynamic_batching { }\n")
    single = Interface.of(dataclasses.replace(manifest(""), max_batch=1))
    assert "dynamic_batching" not in config_text("net", single)


def test_configuration_from_before_requests_shared_runs_takes_new_versions(
    repository: Path, model: Path
) -> None:
    write_bundle(repository, "net", manifest(sha256(model)), model.read_bytes())
    config = repository / "net" / "config.pbtxt"
    older = config.read_text().replace("dynamic_batching { }\n", "")
    config.write_text(older)
    assert write_bundle(repository, "net", manifest(sha256(model)), model.read_bytes()).folder.name == "2"
    assert config.read_text() == older


def test_configuration_of_a_graph_for_single_images() -> None:
    text = config_text("net", Interface.of(manifest("", single=True)))
    assert "max_batch_size: 0" in text
    assert '{ name: "images" data_type: TYPE_FP32 dims: [1, 3, 4, 4] }' in text
    assert '{ name: "adversarial" data_type: TYPE_BOOL dims: [1, 1] }' in text
    assert 'parameters { key: "penstock_max_batch" value { string_value: "8" } }' in text
    assert "dynamic_batching" not in text
