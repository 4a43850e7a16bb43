import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.nn.class_masks import MaskedNetwork, Use, attach_class_masks
from penstock.nn.mask_losses import BottleneckLoss, ClassBatch, ReleaseLoss, channel_scales, yes_or_no

CLASSES = 5


@pytest.fixture
def masked(chain: nn.Module) -> MaskedNetwork:
    network = attach_class_masks(chain, torch.zeros(1, 3, 16, 16), CLASSES)
    network.scores = torch.randn(CLASSES, network.layout.bits, generator=torch.Generator().manual_seed(0))
    return network


@pytest.fixture
def batch(chain: nn.Module) -> ClassBatch:
    """Four images for the class that the network mostly sees in noise, and four for another one."""
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        seen = int(chain(images).argmax(1)[:4].mode().values)
    labels = torch.tensor([seen] * 4 + [(seen + 2) % CLASSES] * 4)
    return ClassBatch(images, labels, labels, 2)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (5, 6)]


def test_release_loss_is_that_of_the_release(masked: MaskedNetwork, batch: ClassBatch) -> None:
    """Written out for one class at a time, as findpath.py does it."""
    losses = ReleaseLoss(0.3)(masked, batch, generators())
    for group, label in enumerate(batch.rows[::4].tolist()):
        images, labels = batch.images[batch.rows == label], batch.labels[batch.rows == label]
        logits = masked(images, labels, Use.SOFT)
        changed = masked.activations(images, labels, Use.SOFT)
        with torch.no_grad():
            original = masked.activations(images)
            right = (masked(images).argmax(1) == labels).nonzero()[:, 0]
        assert (len(right) > 0) == (group == 0)
        loss = F.cross_entropy(logits, labels)
        for after, before in zip(changed, original, strict=True):
            loss = loss + (F.mse_loss(after[right], before[right]) if len(right) else 0.0)
        loss = loss / len(changed)
        for mask in masked.masks:
            loss = loss + 0.3 * torch.sigmoid(mask.scores[label]).square().mean() / len(changed)
        torch.testing.assert_close(losses[group], loss)


def test_images_of_other_classes_do_not_count_in_the_release_form(
    masked: MaskedNetwork, batch: ClassBatch
) -> None:
    others = batch.labels.clone()
    others[[2, 3, 6, 7]] = (others[[2, 3, 6, 7]] + 1) % CLASSES
    with_others = batch._replace(labels=others)
    own = [0, 1, 4, 5]
    alone = ClassBatch(batch.images[own], batch.labels[own], batch.rows[own], 2)
    loss = ReleaseLoss(0.3)
    torch.testing.assert_close(loss(masked, with_others, generators()), loss(masked, alone, generators()))


def test_bottleneck_counts_nats_as_torch_does(masked: MaskedNetwork, batch: ClassBatch) -> None:
    scales = [torch.rand(mask.scores.shape[1]) + 0.5 for mask in masked.masks]
    with_information = BottleneckLoss(1.0, scales, 0.7)(masked, batch, generators())
    without = BottleneckLoss(0.0, scales, 0.7)(masked, batch, generators())
    noise, nats = generators(), torch.zeros(2)

    def disturb(index: int, output: Tensor, mask: Tensor) -> Tensor:
        nonlocal nats
        flow, scale = mask[:, :, None, None], 0.7 * scales[index][:, None, None]
        channel = torch.distributions.Normal(output, (1 - flow) * scale)
        against = torch.distributions.Normal(torch.zeros(()), scale.expand_as(output))
        divergence = torch.distributions.kl_divergence(channel, against)
        nats = nats + divergence.view(2, -1).mean(1) / len(scales)
        drawn = torch.cat([torch.randn(4, *output.shape[1:], generator=each) for each in noise])
        return output + (1 - flow) * scale * drawn

    with masked.tapped(disturb):
        masked(batch.images, batch.rows, Use.SOFT)
    torch.testing.assert_close(with_information - without, nats, rtol=1e-4, atol=1e-5)


def test_wide_open_masks_add_no_noise(masked: MaskedNetwork, batch: ClassBatch, chain: nn.Module) -> None:
    masked.scores = torch.full_like(masked.scores, 12.0)
    scales = [torch.ones(mask.scores.shape[1]) for mask in masked.masks]
    loss = BottleneckLoss(0.0, scales)(masked, batch, generators())
    logits = chain(batch.images)
    answer = torch.ones(8, dtype=torch.bool)
    torch.testing.assert_close(
        loss, yes_or_no(logits, batch.labels, answer).view(2, -1).mean(1), rtol=1e-2, atol=1e-2
    )


def test_yes_or_no_is_the_binary_entropy_of_the_softmax() -> None:
    logits = torch.randn(7, 4)
    asked = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    answer = torch.tensor([True, False, True, False, False, True, True])
    yes = logits.softmax(1)[torch.arange(7), asked]
    torch.testing.assert_close(
        yes_or_no(logits, asked, answer), F.binary_cross_entropy(yes, answer.float(), reduction="none")
    )


def test_scales_are_root_mean_squares_of_the_open_network(masked: MaskedNetwork, batch: ClassBatch) -> None:
    scales = channel_scales(masked, [batch.images[:3], batch.images[3:]])
    with torch.no_grad():
        layers = masked.activations(batch.images)
    for scale, layer in zip(scales, layers, strict=True):
        torch.testing.assert_close(scale, layer.square().mean((0, 2, 3)).sqrt())


@pytest.mark.parametrize("form", ["release", "bottleneck"])
def test_a_class_alone_has_the_loss_and_gradient_that_it_has_among_others(
    form: str, masked: MaskedNetwork, batch: ClassBatch
) -> None:
    scales = [torch.ones(mask.scores.shape[1]) for mask in masked.masks]
    loss = ReleaseLoss(0.3) if form == "release" else BottleneckLoss(0.1, scales)
    together = loss(masked, batch, generators())
    together.sum().backward()  # type: ignore[no-untyped-call]
    gradients = [_taken(mask.scores) for mask in masked.masks]
    for group, label in enumerate(batch.rows[::4].tolist()):
        mine = batch.rows == label
        part = ClassBatch(batch.images[mine], batch.labels[mine], batch.rows[mine], 1)
        alone = loss(masked, part, generators()[group : group + 1])
        alone.sum().backward()  # type: ignore[no-untyped-call]
        torch.testing.assert_close(alone[0], together[group])
        for mask, gradient in zip(masked.masks, gradients, strict=True):
            own = _taken(mask.scores)
            torch.testing.assert_close(own[label], gradient[label], rtol=1e-4, atol=1e-6)
            assert own[[row for row in range(CLASSES) if row != label]].count_nonzero() == 0
    absent = [row for row in range(CLASSES) if row not in batch.rows]
    assert all(gradient[absent].count_nonzero() == 0 for gradient in gradients)


def _taken(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    gradient = parameter.grad.clone()
    parameter.grad = None
    return gradient
