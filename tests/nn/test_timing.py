"""Networks for timing: what is open, how often, how evenly, and always the same."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penstock.detect import PathDetector
from penstock.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from penstock.nn.checkpoint import Checkpoint, find_source, load_source
from penstock.nn.prototypes import ConsolidatedNetwork, ConsolidatedOutput
from penstock.nn.surgery import GatedNetwork, GatedOutput
from penstock.nn.timing import INPUT_SHAPE, TimingConfig, read_timing_source
from penstock.nn.timing_paths import timing_images

STRANGE_SEED = 999  # of images that no network was centred on
ROUTED, GATED, STATIC = (
    "timing:resnet18,density=0.25",
    "timing:resnet18,density=0.3,prototypes=0",
    "timing:resnet50,prototypes=1",
)


@pytest.fixture(scope="module")
def routed() -> tuple[Checkpoint, dict[str, str]]:
    return load_source(ROUTED)


@pytest.fixture(scope="module")
def routed_output(routed: tuple[Checkpoint, dict[str, str]]) -> ConsolidatedOutput:
    with torch.inference_mode():
        answer: ConsolidatedOutput = routed[0].network(timing_images(64, INPUT_SHAPE, STRANGE_SEED))
    return answer


@pytest.fixture(scope="module")
def gated() -> Checkpoint:
    return load_source(GATED)[0]


@pytest.fixture(scope="module")
def static() -> Checkpoint:
    return load_source(STATIC)[0]


@pytest.fixture
def other_threads() -> Iterator[None]:
    """Another number of threads than the one that the other sources of this module are built on."""
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    yield
    torch.set_num_threads(before)


def distinct(rows: Tensor) -> int:
    return len({tuple(row) for row in rows.tolist()})


def dense_conv_macs(network: nn.Module) -> dict[str, int]:
    """MACs of every convolution as it is seen to run."""
    macs: dict[str, int] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):

            def note(conv: nn.Module, _: object, output: Tensor, name: str = name) -> None:
                macs[name] = output[0, 0].numel() * cast(Tensor, conv.weight).numel()

            handles.append(module.register_forward_hook(note))
    with torch.inference_mode():
        network(torch.zeros(1, *INPUT_SHAPE))
    for handle in handles:
        handle.remove()
    return macs


def test_a_routed_source_is_complete(routed: tuple[Checkpoint, dict[str, str]]) -> None:
    checkpoint, origin = routed
    assert isinstance(checkpoint.network, ConsolidatedNetwork)
    assert checkpoint.backbone == "resnet18"
    assert checkpoint.input_shape == (3, 224, 224)
    assert len(checkpoint.class_names) == 1000
    PathDetector.from_state(checkpoint.detector)  # refuses tables that do not fit together
    assert checkpoint.detector["mean"].shape == (1000, checkpoint.network.layout.bits)
    assert len(checkpoint.calibration) == 100
    assert np.isfinite(checkpoint.calibration).all()
    assert len(np.unique(checkpoint.calibration)) > 90
    assert "only times mean anything" in checkpoint.figures["timing_only"]
    assert checkpoint.config["timing"]["density"] == 0.25
    assert not checkpoint.network.training
    assert not checkpoint.dense.training
    assert origin["name"] == ROUTED
    assert len(origin["sha256"]) == 64


def test_only_convolutions_that_do_not_write_to_the_residual_stream_are_ruled(
    routed: tuple[Checkpoint, dict[str, str]], static: Checkpoint
) -> None:
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert routed[0].network.layout.names == tuple(f"{block}.conv1" for block in blocks)
    names = static.network.layout.names
    assert len(names) == 2 * 16
    assert all(name.endswith((".conv1", ".conv2")) for name in names)


def test_each_prototype_opens_the_same_share_of_every_layer_and_they_differ(
    routed: tuple[Checkpoint, dict[str, str]],
) -> None:
    for router in cast(ConsolidatedNetwork, routed[0].network).routers:
        assert len(router.prototypes) == 8
        for bits in torch.split(router.prototypes, router.filters, 1):
            assert (bits.sum(1) == 0.25 * bits.shape[1]).all()
            assert distinct(bits) == 8


def test_own_norms_differ_between_prototypes(routed: tuple[Checkpoint, dict[str, str]]) -> None:
    norms = routed[0].network.get_submodule("body.layer3.0.conv1.norm.norms")
    weights = torch.stack([cast(Tensor, norm.weight) for norm in norms.children()])
    assert distinct(weights) == 8


def test_routers_spread_strange_images_over_the_prototypes(routed_output: ConsolidatedOutput) -> None:
    for logits in routed_output.router_logits:
        served = torch.bincount(logits.argmax(1), minlength=8)
        assert (served > 0).sum() >= 4, served
        assert served.max() <= 0.8 * len(logits), served


def test_gates_depend_on_the_image_and_keep_to_the_density(gated: Checkpoint) -> None:
    assert isinstance(gated.network, GatedNetwork)
    assert not isinstance(gated.network, ConsolidatedNetwork)
    with torch.inference_mode():
        answer: GatedOutput = gated.network(timing_images(32, INPUT_SHAPE, STRANGE_SEED))
    bits = torch.cat(answer.codes, 1)
    assert abs(float(bits.mean()) - 0.3) < 0.03
    rate = bits.mean(0)
    assert ((rate > 0.05) & (rate < 0.95)).float().mean() > 0.9
    assert all(distinct(code) > 25 for code in answer.codes)
    # Bits at the edge would differ between engines that round differently.
    assert (torch.cat(answer.gate_logits, 1).abs() < 1e-4).float().mean() < 1e-3


def test_the_share_of_macs_is_that_of_both_sides_of_the_ruled_convolutions(static: Checkpoint) -> None:
    layout = static.network.layout
    macs = dense_conv_macs(static.dense)
    # Half of conv1's filters; half of conv2's, from half of its inputs; all of conv3's from half of its inputs.
    kept = {".conv1": 0.5, ".conv2": 0.25, ".conv3": 0.5}
    saved = sum(
        cost * (1 - kept[name[-6:]])
        for name, cost in macs.items()
        if name.startswith("layer") and name[-6:] in kept
    )
    with torch.inference_mode():
        codes = static.network(torch.zeros(1, *INPUT_SHAPE)).codes
    share = layout.active_macs(torch.cat(codes, 1).numpy())
    np.testing.assert_allclose(share, 1 - saved / layout.dense_macs, rtol=1e-12)


def test_what_a_router_costs_is_counted(
    routed: tuple[Checkpoint, dict[str, str]], routed_output: ConsolidatedOutput
) -> None:
    layout = routed[0].network.layout
    macs = dense_conv_macs(routed[0].dense)
    saved = 0.75 * sum(cost for name, cost in macs.items() if name[-6:] in (".conv1", ".conv2"))
    routers = sum(router.macs for router in cast(ConsolidatedNetwork, routed[0].network).routers)
    routers += 64 * 56 * 56 + 64 * 56 * 56 + 128 * 28 * 28 + 256 * 14 * 14  # their means over space
    share = routed_output.active_macs.double().numpy()
    np.testing.assert_allclose(share, 1 - (saved - routers) / layout.dense_macs, rtol=1e-5)


def test_what_is_counted_as_skipped_changes_nothing(static: Checkpoint) -> None:
    network = copy.deepcopy(static.network)
    image = timing_images(1, INPUT_SHAPE, STRANGE_SEED)
    with torch.inference_mode():
        before = network(image)
        for follower in network.layout.followers:
            closed = before.codes[follower.sources[0]][0] == 0
            assert closed.any()
            cast(Tensor, network.get_submodule(f"body.{follower.name}").weight)[:, closed] += 7.0
        assert torch.equal(network(image).logits, before.logits)


def test_values_keep_their_scale_through_the_network(gated: Checkpoint, static: Checkpoint) -> None:
    for checkpoint in (gated, static):
        spread: dict[str, float] = {}
        values = timing_images(8, INPUT_SHAPE, STRANGE_SEED)
        with torch.inference_mode():
            for name, module in checkpoint.dense.named_children():
                values = module(values.flatten(1) if name == "fc" else values)
                spread[name] = float(values.std())
        assert all(0.1 < spread[f"layer{stage}"] < 10 for stage in (1, 2, 3, 4)), spread
        assert 0.05 < spread["fc"] < 10, spread


@pytest.mark.usefixtures("other_threads")
def test_the_same_source_is_the_same_to_the_bit(routed: tuple[Checkpoint, dict[str, str]]) -> None:
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    again, origin = load_source(ROUTED, detector=False)  # which is drawn after everything else
    assert not again.detector
    assert torch.equal(torch.rand(3), drawn)  # nor is the caller's generator touched
    assert origin == routed[1]
    for own, other in ((again.network, routed[0].network), (again.dense, routed[0].dense)):
        states = own.state_dict(), other.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_another_seed_is_another_network(routed: tuple[Checkpoint, dict[str, str]]) -> None:
    other, origin = load_source("timing:resnet18,prototypes=1,seed=1")
    assert origin["sha256"] != routed[1]["sha256"]
    own, others = (dict(checkpoint.dense.named_parameters()) for checkpoint in (routed[0], other))
    assert not any(torch.equal(own[name], others[name]) for name in own if own[name].ndim == 4)


@pytest.mark.slow
def test_a_density_of_one_opens_everything() -> None:
    checkpoint, _ = load_source("timing:resnet18,density=1,prototypes=0")
    images = torch.cat([timing_images(2, INPUT_SHAPE, STRANGE_SEED), 100 * torch.randn(2, *INPUT_SHAPE)])
    with torch.inference_mode():
        answer = checkpoint.network(images)
        assert torch.cat(answer.codes, 1).all()
        torch.testing.assert_close(answer.logits, checkpoint.dense(images), rtol=1e-4, atol=1e-4)


def test_a_source_is_read() -> None:
    assert read_timing_source("timing:resnet50") == TimingConfig(network="resnet50")
    assert read_timing_source("timing:resnet18,seed=3,prototypes=0,density=0.125") == TimingConfig(
        network="resnet18", density=0.125, prototypes=0, seed=3
    )


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("timing:vgg99", NotFoundError, "no network 'vgg99' to time; there are resnet18, resnet50"),
        ("timing:", NotFoundError, "no network ''"),
        (
            "timing:resnet18,density=2",
            InvalidArgumentError,
            r"density is 2\.0; it must be above 0 and at most 1",
        ),
        ("timing:resnet18,density=0", InvalidArgumentError, r"density is 0\.0"),
        ("timing:resnet18,density=nan", InvalidArgumentError, "density is nan"),
        ("timing:resnet18,density=half", InvalidArgumentError, "density is 'half' .* must be a number"),
        ("timing:resnet18,prototypes=x", InvalidArgumentError, "prototypes is 'x' .* must be a whole number"),
        ("timing:resnet18,prototypes=33", InvalidArgumentError, "prototypes is 33; it must be 1 to 32, or 0"),
        ("timing:resnet18,prototypes=-1", InvalidArgumentError, "prototypes is -1"),
        ("timing:resnet18,seed=-1", InvalidArgumentError, "seed is -1"),
        ("timing:resnet18,wings=2", InvalidArgumentError, "'wings=2' .* density, prototypes, seed"),
        ("timing:resnet18,density", InvalidArgumentError, "'density' in"),
        ("timing:resnet18,seed=1,seed=1", InvalidArgumentError, "'seed=1' .* at most once"),
        ("timing:resnet18,", InvalidArgumentError, "'' in"),
    ],
)
def test_a_source_that_means_nothing_is_refused(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_source(source)


def test_there_is_no_file_of_a_timing_source() -> None:
    with pytest.raises(UnsupportedError, match=r"timing:resnet18 is built anew .* no checkpoint file"):
        find_source("timing:resnet18")
