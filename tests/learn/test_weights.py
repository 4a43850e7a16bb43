import os
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from penstock import zoo
from penstock.errors import InvalidArgumentError, UnsupportedError
from penstock.learn.weights import find_weights, load_weights
from penstock.nn.backbones import build_backbone
from penstock.nn.checkpoint import load_checkpoint

SQUEEZENET = "weights/squeezenet1_1_imagenet_fp16.onnx"


def published(network: nn.Module) -> dict[str, Tensor]:
    """The state dict without normalisation, which is published apart, and without what old PyTorch did not save."""
    return {
        name: value
        for name, value in network.state_dict().items()
        if not name.startswith("normalize.") and not name.endswith(".num_batches_tracked")
    }


def write_onnx(path: Path, arrays: dict[str, Tensor]) -> None:
    onnx = pytest.importorskip("onnx")
    initializers = [onnx.numpy_helper.from_array(array.numpy(), name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([], "weights", [], [], initializers)
    onnx.save(onnx.helper.make_model(graph), path)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_weights_load_in_their_usual_forms(inside: bool, prefix: str, tmp_path: Path) -> None:
    source, target = (build_backbone("resnet20", 10) for _ in range(2))
    state = {prefix + name: value for name, value in published(source).items()}
    torch.save({"state_dict": state, "best_prec1": 92.0} if inside else state, tmp_path / "weights.th")
    load_weights(target, tmp_path / "weights.th")
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])


@pytest.mark.parametrize("entry", [entry.name for entry in zoo.entries()])
def test_a_zoo_entry_gives_its_dense_network(entry: str) -> None:
    file = find_weights(f"zoo:{entry}", None)
    checkpoint = load_checkpoint(file)
    network = build_backbone(checkpoint.backbone, len(checkpoint.class_names))
    load_weights(network, file)
    for name, value in checkpoint.dense.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "holds no weights of this network"),
        ([1, 2, 3], "holds no weights of this network"),
        ({"epoch": 3}, "holds no weights of this network: 'epoch' is no tensor"),
        ({"conv1.weight": torch.zeros(16, 3, 3, 3)}, "does not fit the network: missing"),
    ],
)
def test_weights_of_something_else_are_refused(content: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.th"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(InvalidArgumentError, match=message):
        load_weights(build_backbone("resnet20", 10), file)


def test_an_unknown_layer_and_another_shape_are_named(tmp_path: Path) -> None:
    network = build_backbone("resnet20", 10)
    torch.save(published(network) | {"head.weight": torch.zeros(1)}, tmp_path / "more.th")
    with pytest.raises(InvalidArgumentError, match=r"unexpected \['head\.weight'\]"):
        load_weights(network, tmp_path / "more.th")
    torch.save(published(network) | {"bn1.weight": torch.zeros(5)}, tmp_path / "narrow.th")
    with pytest.raises(InvalidArgumentError, match=r"bn1\.weight is \[5\] there and \[16\] here$"):
        load_weights(network, tmp_path / "narrow.th")


def test_weights_for_other_classes_need_a_fresh_classifier(tmp_path: Path) -> None:
    source, target = build_backbone("resnet20", 100), build_backbone("resnet20", 10)
    file = tmp_path / "weights.th"
    torch.save(published(source), file)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(InvalidArgumentError, match=r"linear\.weight is \[100, 64\].*fresh_classifier loads"):
        load_weights(target, file)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    load_weights(target, file, fresh_classifier=True)
    for name, value in target.state_dict().items():
        expected = before if name.startswith("linear.") else source.state_dict()
        assert torch.equal(value, expected[name])


def test_a_fresh_classifier_is_fresh_even_where_the_old_one_fits(tmp_path: Path) -> None:
    source, target = (build_backbone("squeezenet1_1", 7) for _ in range(2))
    torch.save(published(source), tmp_path / "weights.pth")
    own = target.state_dict()["classifier.1.weight"].clone()
    load_weights(target, tmp_path / "weights.pth", fresh_classifier=True)
    assert torch.equal(target.state_dict()["classifier.1.weight"], own)
    assert torch.equal(target.state_dict()["features.0.weight"], source.state_dict()["features.0.weight"])


def test_a_network_without_layers_has_no_classifier_to_keep(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.th")
    with pytest.raises(InvalidArgumentError, match="no linear layer"):
        load_weights(nn.ReLU(), tmp_path / "weights.th", fresh_classifier=True)


def test_onnx_initializers_with_the_networks_names_load(tmp_path: Path) -> None:
    source, target = (build_backbone("digits-cnn", 10) for _ in range(2))
    write_onnx(tmp_path / "weights.onnx", published(source))
    load_weights(target, tmp_path / "weights.onnx")
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])


@pytest.mark.parametrize(
    ("content", "message"), [(b"not a model", "holds no weights"), (b"", "does not fit the network: missing")]
)
def test_a_file_that_is_no_onnx_model_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    file = tmp_path / "weights.onnx"
    file.write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=message):
        load_weights(build_backbone("digits-cnn", 10), file)


def test_onnx_weights_without_onnx_name_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UnsupportedError, match=re.escape("penstock[export]")):
        load_weights(build_backbone("digits-cnn", 10), tmp_path / "weights.onnx")


@pytest.fixture(scope="module")
def squeezenet() -> Path:
    file = Path(os.environ.get("PENSTOCK_DATA", "")) / SQUEEZENET
    if not file.is_file():
        pytest.skip(f"needs {SQUEEZENET} in the folder that PENSTOCK_DATA names")
    return file


def test_the_published_squeezenet_knows_what_it_was_trained_for(squeezenet: Path) -> None:
    """61.0 % and 82.4 % are known for 900 such images; of these 300 a standard error is 2.8 and 2.2 points."""
    from penstock.data import imagenet_sample

    network = build_backbone("squeezenet1_1", 1000).eval()
    load_weights(network, squeezenet)
    sample = imagenet_sample()
    with torch.inference_mode():
        batches = [sample.take(range(start, start + 50)).floats() for start in range(0, 300, 50)]
        logits = torch.cat([network(torch.from_numpy(batch)) for batch in batches])
    five = logits.topk(5).indices == torch.from_numpy(sample.labels)[:, None]
    assert five[:, 0].float().mean().item() == pytest.approx(0.610, abs=0.05)
    assert five.any(1).float().mean().item() == pytest.approx(0.824, abs=0.04)


def test_the_published_squeezenet_answers_as_its_file_does(squeezenet: Path) -> None:
    """ONNX Runtime on the float16 file, with Caffe's preprocessing, against our network in float32."""
    runtime = pytest.importorskip("onnxruntime")
    network = build_backbone("squeezenet1_1", 1000).eval()
    load_weights(network, squeezenet)
    images = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    caffe = images.flip(1) * 255 - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
    session = runtime.InferenceSession(squeezenet, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        answers = network(images).softmax(1)
    for answer, image in zip(answers, caffe, strict=True):
        (expected,) = session.run(None, {"data_0": image[None].half().numpy()})
        torch.testing.assert_close(answer, torch.from_numpy(expected).float().flatten(), rtol=0, atol=1e-3)


def test_the_published_squeezenet_starts_a_network_for_other_classes(squeezenet: Path) -> None:
    network, whole = build_backbone("squeezenet1_1", 25), build_backbone("squeezenet1_1", 1000)
    with pytest.raises(InvalidArgumentError, match=r"\[1000\] there and \[25\] here.*fresh_classifier loads"):
        load_weights(network, squeezenet)
    load_weights(network, squeezenet, fresh_classifier=True)
    load_weights(whole, squeezenet)
    for name, value in network.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(value, whole.state_dict()[name])
