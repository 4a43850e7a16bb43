from pathlib import Path

import pytest
import torch
from torch import nn

from penstock.data import load
from penstock.learn.class_streams import ClassStreams
from penstock.learn.mask_search import Pace, initial_scores, search
from penstock.learn.start import load_network
from penstock.nn.backbones import build_backbone
from penstock.nn.class_masks import MaskedNetwork, attach_class_masks
from penstock.nn.mask_losses import BottleneckLoss, MaskLoss, ReleaseLoss

PACE = Pace(steps=6)


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("digits-cnn", 10).eval()


@pytest.fixture
def masked(dense: nn.Module) -> MaskedNetwork:
    return attach_class_masks(dense, torch.zeros(1, 1, 8, 8), 10)


@pytest.fixture(scope="module")
def streams() -> ClassStreams:
    return ClassStreams(load("digits").train, 3, others=2, padding=1)


def form(name: str, network: MaskedNetwork) -> MaskLoss:
    if name == "release":
        return ReleaseLoss(0.1)
    return BottleneckLoss(0.1, [torch.full_like(mask.scores[0], 0.5).detach() for mask in network.masks])


@pytest.mark.parametrize("name", ["release", "bottleneck"])
def test_all_classes_at_once_or_one_by_one_are_the_same(
    name: str, masked: MaskedNetwork, streams: ClassStreams, tmp_path: Path
) -> None:
    search(masked, form(name, masked), streams, PACE, tmp_path / "together")
    together = masked.scores
    in_groups = Pace(steps=6, classes_at_once=3)
    search(masked, form(name, masked), streams, in_groups, tmp_path / "groups")
    torch.testing.assert_close(masked.scores, together, rtol=1e-3, atol=1e-4)
    start = initial_scores(10, masked.layout.bits, PACE)
    for label in (0, 7):
        search(masked, form(name, masked), streams, PACE, tmp_path / f"only-{label}", labels=[label])
        torch.testing.assert_close(masked.scores[label], together[label], rtol=1e-3, atol=1e-4)
        others = [row for row in range(10) if row != label]
        assert torch.equal(masked.scores[others], start[others])


def test_a_step_has_the_length_asked_for_in_every_layer(
    masked: MaskedNetwork, streams: ClassStreams, tmp_path: Path
) -> None:
    pace = Pace(steps=1, step_size=0.25, initial=0.5)
    search(masked, ReleaseLoss(0.1), streams, pace, tmp_path / "state")
    moved = masked.scores - initial_scores(10, masked.layout.bits, pace)
    for part in masked.layout.slices:
        torch.testing.assert_close(moved[:, part].norm(dim=1), torch.full((10,), 0.25))


def test_weights_statistics_and_the_given_network_stay_as_they_were(
    dense: nn.Module, masked: MaskedNetwork, streams: ClassStreams, tmp_path: Path
) -> None:
    def frozen(network: nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in network.state_dict().items() if "scores" not in name}

    before = frozen(dense), frozen(masked)
    search(masked, ReleaseLoss(0.1), streams, PACE, tmp_path / "state")
    for state, network in zip(before, (dense, masked), strict=True):
        for name, value in frozen(network).items():
            assert torch.equal(value, state[name]), name


def test_compression_closes_filters_and_the_task_alone_lowers_its_loss(
    trained_digits: Path, streams: ClassStreams, tmp_path: Path
) -> None:
    dense = load_network("digits-cnn", str(trained_digits), 10)
    masked = attach_class_masks(dense, torch.zeros(1, 1, 8, 8), 10)
    pace = Pace(steps=30, step_size=1.0)
    search(masked, ReleaseLoss(1000.0), streams, pace, tmp_path / "closed")
    assert masked.paths.bits.mean() < 0.05
    losses: list[float] = []

    def note(_: int, loss: float) -> None:
        losses.append(loss)

    search(masked, ReleaseLoss(0.0), streams, pace, tmp_path / "open", stepped=note)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_a_search_that_stopped_goes_on_to_the_same_bits(
    masked: MaskedNetwork, streams: ClassStreams, tmp_path: Path
) -> None:
    pace = Pace(steps=25)
    loss = form("bottleneck", masked)
    search(masked, loss, streams, pace, tmp_path / "whole")
    whole = masked.scores

    class KilledError(Exception):
        pass

    def kill(step: int, _: float) -> None:
        if step == 23:
            raise KilledError

    with pytest.raises(KilledError):
        search(masked, loss, streams, pace, tmp_path / "state", stepped=kill)
    done: list[int] = []
    search(masked, loss, streams, pace, tmp_path / "state", stepped=lambda step, _: done.append(step))
    assert done[0] == 21  # what had been done since the last file is done again
    assert torch.equal(masked.scores, whole)
    search(masked, loss, streams, pace, tmp_path / "state", stepped=kill)  # nothing left to do
    assert torch.equal(masked.scores, whole)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "state").read_bytes()
