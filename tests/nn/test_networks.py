"""Surgery on the networks that people have, against oracles that know nothing of surgery.

Each network's wiring is written down by hand: behind which module a convolution's filters are silenced. What an open
or closed filter costs is counted filter by filter in the original network, whose inputs show which channels are there.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as models
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from penstock.nn.backbones import build_backbone
from penstock.nn.surgery import GatedNetwork, attach_gates

Force = Callable[[GatedNetwork, Sequence[Tensor]], GatedNetwork]
Codes = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A network and its wiring.

    Attributes:
        build: with random weights, ten classes.
        gates: gated convolutions.
        silence: names of the modules behind which a convolution's filters are silenced: in general its own batch
            norm, since zero passes every activation here; for an expanding convolution also the depthwise one's.
        size: of the images.
        left: convolutions without gates.
        adds: classes of blocks that end with an add, after which every channel is there.
    """

    build: Callable[[], nn.Module]
    gates: int
    silence: Callable[[str], list[str]]
    size: int = 64
    left: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()


def resnet_norm(name: str) -> list[str]:
    return [re.sub(r"conv(\d)$", r"bn\1", name).replace("downsample.0", "downsample.1")]


def next_in_row(name: str) -> list[str]:
    head, _, number = name.rpartition(".")
    return [f"{head}.{int(number) + 1}"]


def densenet_norm(name: str) -> list[str]:
    return [re.sub(r"conv1$", "norm2", name)]  # behind conv2 and transitions stands nothing of their own


def cifar_densenet_norm(name: str) -> list[str]:
    return [re.sub(r"conv1$", "bn2", name)]


def mobilenet_norms(name: str) -> list[str]:
    if re.fullmatch(r"features\.\d+\.conv\.0\.0", name):  # expands; the depthwise convolution follows
        return [name.replace("conv.0.0", "conv.0.1"), name.replace("conv.0.0", "conv.1.1")]
    return next_in_row(name)


def mnasnet_norms(name: str) -> list[str]:
    if re.search(r"layers\.\d+\.\d+\.layers\.0$", name):
        return [re.sub(r"0$", "1", name), re.sub(r"0$", "4", name)]
    return next_in_row(name)


def vgg16() -> nn.Module:
    """torchvision's, but for two hidden layers of the classifier, whose 120 million weights tell nothing here."""
    with torch.device("meta"):
        network: nn.Module = models.vgg16_bn()
    network.features = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=True)
    network.classifier = nn.Linear(512 * 49, 10)
    return network


def googlenet(*, aux: bool) -> nn.Module:
    network: nn.Module = models.googlenet(num_classes=10, init_weights=False, aux_logits=aux)
    return network


AUXILIARY = ("aux1.conv.conv", "aux2.conv.conv")
CASES = {
    "resnet18": Case(
        lambda: models.resnet18(num_classes=10), 19, resnet_norm, 64, ("conv1",), ("BasicBlock",)
    ),
    "resnet50": Case(
        lambda: models.resnet50(num_classes=10), 52, resnet_norm, 64, ("conv1",), ("Bottleneck",)
    ),
    "resnext50": Case(
        lambda: models.resnext50_32x4d(num_classes=10), 52, resnet_norm, 64, ("conv1",), ("Bottleneck",)
    ),
    "vgg16_bn": Case(vgg16, 12, next_in_row, 32, ("features.0",)),
    "googlenet": Case(
        lambda: googlenet(aux=False), 56, lambda name: [name.replace(".conv", ".bn")], 64, ("conv1.conv",)
    ),
    "googlenet with auxiliary heads": Case(
        lambda: googlenet(aux=True),
        56,
        lambda name: [name.replace(".conv", ".bn")],
        64,
        ("conv1.conv", *AUXILIARY),
    ),
    "densenet121": Case(
        lambda: models.densenet121(num_classes=10), 119, densenet_norm, 64, ("features.conv0",)
    ),
    "mobilenet_v2": Case(
        lambda: models.mobilenet_v2(num_classes=10),
        34,
        mobilenet_norms,
        64,
        ("features.0.0", "features.1.conv.0.0"),
        ("InvertedResidual",),
    ),
    "squeezenet1_1": Case(
        lambda: models.squeezenet1_1(num_classes=10),
        24,
        lambda name: [name],
        64,
        ("features.0", "classifier.1"),
    ),
    **{
        f"cifar resnet{depth}": Case(
            partial(build_backbone, f"resnet{depth}", 10),
            depth - 2,
            resnet_norm,
            32,
            ("conv1",),
            ("BasicBlock",),
        )
        for depth in (20, 32, 44, 56)
    },
    "cifar vgg16": Case(lambda: build_backbone("vgg16", 10), 12, next_in_row, 32, ("features.0",)),
    "cifar mnasnet": Case(
        lambda: build_backbone("mnasnet", 10),
        34,
        mnasnet_norms,
        32,
        ("layers.0", "layers.3"),
        ("_InvertedResidual",),
    ),
    "cifar densenet40": Case(
        lambda: build_backbone("densenet40", 10), 38, cifar_densenet_norm, 32, ("conv1",)
    ),
}


class Networks:
    """Builds each network once and remembers what it costs to make."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[nn.Module, GatedNetwork]] = {}

    def __call__(self, name: str) -> tuple[nn.Module, GatedNetwork]:
        if name not in self._made:
            torch.manual_seed(0)
            case = CASES[name]
            original = lived_in(case.build(), case.size)
            self._made[name] = original, attach_gates(original, torch.zeros(1, 3, case.size, case.size))
        return self._made[name]


def lived_in(network: nn.Module, size: int) -> nn.Module:
    """Weights that keep their size through the layers, and random batch norms, so that constants show."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.3)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(4, 3, size, size))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean += 0.2 * torch.randn_like(module.running_mean)
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.uniform_(module.bias, -0.3, 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks()


def random_codes(gated: GatedNetwork, density: float) -> Codes:
    return {layer.name: (torch.rand(layer.filters) < density).float() for layer in gated.layout.layers}


@contextlib.contextmanager
def silenced(network: nn.Module, case: Case, codes: Codes) -> Iterator[None]:
    """Set closed filters to zero by hand."""

    def silence(code: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda _module, _inputs, output: output * code[:, None, None]

    hooks = [
        network.get_submodule(module).register_forward_hook(silence(code))
        for name, code in codes.items()
        for module in case.silence(name)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", CASES)
def test_a_gated_network_equals_the_original_with_its_closed_filters_silenced(
    name: str, networks: Networks, force: Force
) -> None:
    (original, gated), case = networks(name), CASES[name]
    torch.manual_seed(1)
    images = torch.randn(2, 3, case.size, case.size)
    for density in (1.0, 0.8, 0.3):
        codes = random_codes(gated, density)
        force(gated, list(codes.values()))
        with torch.no_grad(), silenced(original, case, codes):
            wanted, output = original(images), gated(images)
        assert wanted.std() > 1e-3  # a comparison of zeros would say nothing
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(output.logits / scale, wanted / scale, rtol=0, atol=1e-5)
        assert torch.equal(torch.cat(output.codes, 1), torch.cat(list(codes.values())).expand(2, -1))


@pytest.mark.parametrize("name", CASES)
def test_every_convolution_is_gated_or_left_with_a_reason(name: str, networks: Networks) -> None:
    (original, gated), case = networks(name), CASES[name]
    assert len(gated.layout.layers) == case.gates
    assert {finding.name for finding in gated.report if not finding.gated} == set(case.left)
    assert all(finding.gated or finding.reason for finding in gated.report)
    convolutions = [path for path, module in original.named_modules() if isinstance(module, nn.Conv2d)]
    assert sorted(finding.name for finding in gated.report) == sorted(convolutions)
    followers = {follower.name for follower in gated.layout.followers}
    assert followers == {finding.name for finding in gated.report if finding.gated and finding.reason}


def adds(block: nn.Module) -> bool:
    """Whether a block that may end with an add does."""
    return bool(getattr(block, "use_res_connect", getattr(block, "apply_residual", True)))


class Counter:
    """Counts a network's MACs filter by filter while it runs, with every ReLU leaky so that only a mask makes zeros.

    Attributes:
        total: MACs of what is open, the gates included.
    """

    def __init__(self, network: nn.Module, case: Case, codes: Codes, patch: pytest.MonkeyPatch) -> None:
        self.codes = codes
        self.total = 0
        # A depthwise convolution behind an expanding one has as many open filters as channels that are there.
        self.behind = {behind[1] for behind in map(case.silence, codes) if len(behind) > 1}
        self.hooks: list[Any] = []
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                self._hook(module, lambda *call, name=name: self._conv(name, *call))
            elif isinstance(module, nn.Linear):
                self._hook(module, self._linear)
            elif type(module).__name__ in case.adds and adds(module):
                self._hook(module, lambda _module, _inputs, output: output + 1e-3)
        leaky: Callable[..., Tensor] = lambda x, *_, **__: torch.where(x > 0, x, 0.1 * x)  # noqa: E731
        for function in ("relu", "hardtanh", "relu6"):
            patch.setattr(F, function, leaky)
        for function in ("avg_pool2d", "adaptive_avg_pool2d"):
            patch.setattr(F, function, self._pool(getattr(F, function)))
        patch.setattr(Tensor, "mean", self._pool(Tensor.mean))

    def _hook(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self.hooks.append(module.register_forward_hook(hook))

    def _conv(self, name: str, module: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,) = inputs
        window = prod(module.kernel_size) * prod(output.shape[2:])
        there = x.abs().amax(dim=(0, 2, 3)) > 0  # [C]
        depthwise = module.groups == module.in_channels
        if name in self.codes and module.groups == 1:
            self.total += int(self.codes[name].sum()) * int(there.sum()) * window
        elif name in self.codes:  # each group reads channels of its own
            self.total += int(self.codes[name].sum()) * module.in_channels // module.groups * window
        elif depthwise and next_in_row(name)[0] in self.behind:
            self.total += int(there.sum()) * window
        else:
            self.total += module.weight.numel() * prod(output.shape[2:])
        if name in self.codes:
            channels, hidden = module.in_channels, module.in_channels // 4
            self.total += prod(x.shape[1:]) + channels * hidden + hidden * module.out_channels

    def _linear(self, module: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        self.total += module.weight.numel()

    def _pool(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counting(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.total += prod(x.shape[1:])
            return function(x, *args, **kwargs)

        return counting


@pytest.mark.parametrize("name", CASES)
def test_active_macs_of_a_random_path_are_those_counted_filter_by_filter(
    name: str, networks: Networks, force: Force, monkeypatch: pytest.MonkeyPatch
) -> None:
    (original, gated), case = networks(name), CASES[name]
    torch.manual_seed(2)
    codes = random_codes(gated, 0.5)
    path = torch.cat(list(codes.values()))[None]
    with silenced(original, case, codes), torch.no_grad(), monkeypatch.context() as patch:
        counter = Counter(original, case, codes, patch)
        try:
            original(torch.randn(1, 3, case.size, case.size))
        finally:
            for hook in counter.hooks:
                hook.remove()
    counted = gated.layout.active_macs(path.numpy())[0] * gated.layout.dense_macs
    assert counted == pytest.approx(counter.total, rel=1e-9)
    with torch.no_grad():
        share = gated.active_macs(path).item()
    assert share == pytest.approx(counter.total / gated.layout.dense_macs, rel=1e-5)


# Billions of MACs of products at 224 x 224, as torchvision publishes them with its weights.
PUBLISHED = {
    "resnet18": models.ResNet18_Weights.DEFAULT,
    "resnet50": models.ResNet50_Weights.DEFAULT,
    "resnext50_32x4d": models.ResNeXt50_32X4D_Weights.DEFAULT,
    "vgg16_bn": models.VGG16_BN_Weights.DEFAULT,
    "googlenet": models.GoogLeNet_Weights.DEFAULT,
    "densenet121": models.DenseNet121_Weights.DEFAULT,
    "mobilenet_v2": models.MobileNet_V2_Weights.DEFAULT,
    "squeezenet1_1": models.SqueezeNet1_1_Weights.DEFAULT,
}
# Elements that average poolings read: the last map of each network, and those between DenseNet's blocks.
POOLED = {
    "resnet18": 512 * 49,
    "resnet50": 2048 * 49,
    "resnext50_32x4d": 2048 * 49,
    "vgg16_bn": 512 * 49,
    "googlenet": 1024 * 49,
    "densenet121": 128 * 56**2 + 256 * 28**2 + 512 * 14**2 + 1024 * 7**2,
    "mobilenet_v2": 1280 * 49,
    "squeezenet1_1": 1000 * 13**2,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_dense_macs_at_224_are_the_published_ones(name: str) -> None:
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    with torch.device("meta"):  # sizes are enough
        network = getattr(models, name)(**options).eval()
        images = torch.zeros(1, 3, 224, 224)
    macs = attach_gates(network, images).layout.dense_macs
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    assert macs == counter.get_total_flops() // 2 + POOLED[name]
    assert (macs - POOLED[name]) / 1e9 == pytest.approx(PUBLISHED[name].meta["_ops"], abs=0.001)
