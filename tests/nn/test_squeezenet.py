import pytest
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from penstock.errors import InvalidArgumentError
from penstock.nn.squeezenet import CAFFE_MEAN, SqueezeNet, from_caffe, is_caffe

FIRES = [(64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128)]
FIRES += [(256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)]


def caffe_arrays(classes: int) -> dict[str, Tensor]:
    """Random arrays of the names and shapes that the Caffe network has."""
    torch.manual_seed(0)
    arrays: dict[str, Tensor] = {}

    def add(name: str, outputs: int, inputs: int, kernel: int) -> None:
        spread = (inputs * kernel**2) ** -0.5 / (128 if name == "conv1" else 1)
        arrays[f"{name}_w_0"] = (torch.randn(outputs, inputs, kernel, kernel) * spread).half()
        arrays[f"{name}_b_0"] = torch.randn(outputs).half()

    add("conv1", 64, 3, 3)
    for number, (inputs, squeezed, expanded) in enumerate(FIRES, 2):
        add(f"fire{number}/squeeze1x1", squeezed, inputs, 1)
        add(f"fire{number}/expand1x1", expanded, squeezed, 1)
        add(f"fire{number}/expand3x3", expanded, squeezed, 3)
    add("conv10", classes, 512, 1)
    return arrays


def test_has_torchvisions_names_and_as_many_parameters_as_published() -> None:
    network = SqueezeNet()
    names = {name for name in network.state_dict() if not name.startswith("normalize.")}
    assert names == set(squeezenet1_1().state_dict())
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_235_496


def test_caffe_weights_answer_in_0_to_1_rgb_as_caffe_does_in_0_to_255_bgr() -> None:
    """The oracle is the sum that the original computes, with its own preprocessing."""
    arrays = caffe_arrays(10)
    network = SqueezeNet(10).eval()
    missing, unexpected = network.load_state_dict(from_caffe(arrays), strict=False)
    assert (missing, unexpected) == (["normalize.mean", "normalize.std"], [])
    images = torch.rand(2, 3, 64, 64)
    blue_first = images.flip(1) * 255 - torch.tensor(CAFFE_MEAN).flip(0).view(1, 3, 1, 1)
    expected = nn.functional.conv2d(
        blue_first, arrays["conv1_w_0"].float(), arrays["conv1_b_0"].float(), stride=2
    )
    torch.testing.assert_close(network.features[0](network.normalize(images)), expected, rtol=0, atol=1e-5)
    for place, fire in ((3, "fire2"), (12, "fire9")):
        module = network.features[place]
        assert torch.equal(module.squeeze.weight, arrays[f"{fire}/squeeze1x1_w_0"].float())
        assert torch.equal(module.expand3x3.bias, arrays[f"{fire}/expand3x3_b_0"].float())
    assert torch.equal(network.classifier[1].weight, arrays["conv10_w_0"].float())


def test_caffe_names_are_recognised_and_strangers_refused() -> None:
    arrays = caffe_arrays(10)
    assert is_caffe(arrays)
    assert not is_caffe(SqueezeNet(10).state_dict())
    with pytest.raises(InvalidArgumentError, match="'fire10/squeeze1x1_w_0' is no array"):
        from_caffe(arrays | {"fire10/squeeze1x1_w_0": torch.zeros(1)})


def test_can_be_traced() -> None:
    network = SqueezeNet(5).eval()
    traced = torch.fx.symbolic_trace(network)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(traced(images), network(images))
