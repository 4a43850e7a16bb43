"""The configuration of a model, which belongs to all its versions and may be edited."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from threading import Event, Thread
from time import sleep
from typing import Any

import pytest

from penstock import bundle_writing, standing_config
from penstock.bundle import Bundle, Interface, config_text, versions
from penstock.bundle_writing import write_bundle
from penstock.errors import InvalidArgumentError
from penstock.files import sha256
from penstock.standing_config import edited, misfit
from tests.bundle.made import manifest


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


@pytest.mark.parametrize("file", ["config.pbtxt", "labels.txt"])
def test_a_file_that_is_gone_is_no_reason_to_call_versions_otherwise(
    written: Bundle, model: Path, file: str
) -> None:
    home = written.folder.parent
    before = (home / file).read_text()
    (home / file).unlink()
    other = manifest(sha256(model), class_names=("cat", "cow"), max_batch=4)
    with pytest.raises(
        InvalidArgumentError, match=f"{file} is not there, .* choose another --name than 'net'"
    ):
        write_bundle(home.parent, "net", other, model.read_bytes())
    assert not (home / file).exists()
    assert versions(home) == [1]
    assert write_bundle(home.parent, "net", manifest(sha256(model)), model.read_bytes()).folder.name == "2"
    assert (home / file).read_text() == before


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
