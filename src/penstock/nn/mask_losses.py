r"""What class masks are searched by, in two forms. Each gives one loss per class; classes never meet in it.

With ``lambda = sigmoid(m)``, ``R_l`` the output of masked layer ``l`` in the masked network, ``A_l`` the output of the
same layer in the original one, and ``L`` layers:

**Release** (findpath.py of https://github.com/hujiecpp/NAD, read at 202b77b), `ReleaseLoss`:

    [ CE(logits, c) + sum_l MSE(lambda_l R_l, A_l) ] / L  +  beta mean_l mean_j lambda[l, j]^2

CE over images of class c, MSE over those of them that the original network gets right.

**Information bottleneck**, `BottleneckLoss`. The paper words the search as that of a representation ``Z`` that keeps
what tells the class and nothing else: maximise ``I(Z; Y) - beta I(X; Z)``. Its derivation could not be read; the one
below is ours, after Schulz et al., *Restricting the Flow*, ICLR 2020, https://arxiv.org/abs/2001.00396, section 3,
which treats one layer and one image. Every masked layer becomes a noisy channel,

    Z_l = lambda R_l + (1 - lambda) tau s_l eps,   eps ~ N(0, 1) for every position,   s_l[j]^2 = E[A_l[j]^2]

with ``s_l`` taken over the training images and ``tau`` (``noise``) the strength; there it is 1, and the noise has the
channel's mean. Here its mean is 0, because a filter that a compact network leaves out is 0.

- ``Y`` is the class's own yes or no, ``Y = 1[label = c]``. On images of class c alone it is constant and every ``Z``
  has ``I(Z; Y) = 0``: a mask under which the network says c to everything is as good as any. So half of the images are
  of other classes. ``I(Z; Y) >= H(Y) + E[log q(Y|Z)]`` for any ``q`` (Barber and Agakov, 2003); with the frozen
  network's own answer, ``q(1|z) = softmax(logits)_c``, the bound is a constant minus the cross-entropy of yes and no.
- ``I(X; Z_l) <= I(Z_<l; Z_l) <= E KL(p(z_l | z_<l) || q(z_l))``, as ``X -> Z_<l -> Z_l`` is a Markov chain, for any
  ``q``. With ``q = N(0, tau^2 s^2)``, of each value:

      KL = ((1 - lambda)^2 + (lambda R)^2 / (tau s)^2 - 1) / 2 - log(1 - lambda)

so the loss is ``CE(yes or no) + beta mean_l mean KL_l``, in nats for each value of an activation. The second term is
taken over class c's own images: it is their flow that the path describes.

The release's last term is the same bound for another channel: with ``Z = lambda R / s + eps`` and ``q = N(0, 1)`` the
KL is ``(lambda R / s)^2 / 2``, on average ``lambda^2 / 2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.nn.class_masks import MaskedNetwork, Use

# Of lambda within the logarithm: sigmoid reaches 1 in single precision, the information infinity.
LARGEST = 1 - 1e-4


class ClassBatch(NamedTuple):
    """Samples for the masks of ``G`` classes, equally many for each, class after class.

    Attributes:
        images: ``[N, C, H, W]`` float32 in 0..1.
        labels: ``[N]`` int64, what they show.
        rows: ``[N]`` int64, whose mask they run under.
        groups: G.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    groups: int

    def to(self, device: torch.device) -> ClassBatch:
        """The same on a device."""
        return ClassBatch(self.images.to(device), self.labels.to(device), self.rows.to(device), self.groups)

    def own_means(self, values: Tensor, counted: Tensor | None = None) -> Tensor:
        """``[G]`` means of ``values`` ``[N]`` over each class's own images, or over those ``counted`` ``[N]``."""
        own = self.labels == self.rows
        weights = (own if counted is None else own & counted).float().view(self.groups, -1)
        return (values.float().view(self.groups, -1) * weights).sum(1) / weights.sum(1).clamp(min=1)


class MaskLoss(Protocol):
    """A loss per class."""

    def __call__(self, network: MaskedNetwork, batch: ClassBatch, noise: Sequence[torch.Generator]) -> Tensor:
        """Loss of each class.

        Args:
            network: under masks.
            batch: samples of ``G`` classes.
            noise: one generator for each of them, for what is random.

        Returns:
            ``[G]``, differentiable in the scores.
        """
        ...


class ReleaseLoss:
    """The form of the authors' release; only each class's own images count.

    Args:
        beta: weight of the masks' mean square.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def __call__(self, network: MaskedNetwork, batch: ClassBatch, noise: Sequence[torch.Generator]) -> Tensor:
        """See `MaskLoss`; nothing is random here."""
        original: list[Tensor] = []

        def keep(_: int, output: Tensor, __: Tensor) -> Tensor:
            original.append(output)
            return output

        with torch.no_grad(), network.tapped(keep):
            right = network(batch.images).argmax(1) == batch.labels
        total = batch.images.new_zeros(batch.groups)

        def compare(index: int, output: Tensor, mask: Tensor) -> Tensor:
            nonlocal total
            difference = (output.float() - original[index].float()).square().mean((1, 2, 3))
            total = (
                total
                + batch.own_means(difference, right)
                + self.beta * batch.own_means(mask.square().mean(1))
            )
            return output

        with network.tapped(compare):
            logits = network(batch.images, batch.rows, Use.SOFT)
        entropy = F.cross_entropy(logits.float(), batch.labels, reduction="none")
        return (batch.own_means(entropy) + total) / len(network.masks)


class BottleneckLoss:
    """The information bottleneck.

    Args:
        beta: weight of a nat for each value.
        scales: s of each masked layer, ``[filters]``, see `channel_scales`.
        noise: tau, strength of the noise in units of ``scales``.
    """

    def __init__(self, beta: float, scales: Sequence[Tensor], noise: float = 1.0) -> None:
        self.beta = beta
        # A dead channel carries nothing: any positive scale will do.
        self.scales = [(noise * scale).clamp(min=1e-6) for scale in scales]

    def __call__(self, network: MaskedNetwork, batch: ClassBatch, noise: Sequence[torch.Generator]) -> Tensor:
        """See `MaskLoss`."""
        information = batch.images.new_zeros(batch.groups)

        def disturb(index: int, output: Tensor, mask: Tensor) -> Tensor:
            nonlocal information
            scale = self.scales[index][:, None, None]
            flow = mask.float().clamp(max=LARGEST)[:, :, None, None]
            nats = ((1 - flow).square() + (output.float() / scale).square() - 1) / 2 - torch.log1p(-flow)
            information = information + batch.own_means(nats.mean((1, 2, 3)))
            shape = (len(output) // batch.groups, *output.shape[1:])
            # Every class draws by itself, so that its search does not depend on the company it has.
            drawn = torch.cat([torch.randn(shape, generator=each) for each in noise]).to(output.device)
            return output + ((1 - flow) * scale * drawn).to(output.dtype)

        with network.tapped(disturb):
            logits = network(batch.images, batch.rows, Use.SOFT)
        entropy = yes_or_no(logits.float(), batch.rows, batch.labels == batch.rows)
        return entropy.view(batch.groups, -1).mean(1) + self.beta * information / len(network.masks)


def yes_or_no(logits: Tensor, asked: Tensor, answer: Tensor) -> Tensor:
    """``[N]`` cross-entropy of the question whether each image is of the class asked for.

    Args:
        logits: ``[N, classes]``; ``softmax(logits)[asked]`` is the probability of yes.
        asked: ``[N]`` int64.
        answer: ``[N]`` bool, the truth.
    """
    place = asked[:, None]
    yes = logits.gather(1, place)[:, 0]
    no = logits.scatter(1, place, -torch.inf).logsumexp(1)
    return F.softplus(torch.where(answer, no - yes, yes - no))


@torch.no_grad()
def channel_scales(network: MaskedNetwork, batches: Sequence[Tensor]) -> list[Tensor]:
    """Root mean square of every channel of the original network's masked layers.

    Args:
        network: run with everything open.
        batches: images ``[N, C, H, W]``.

    Returns:
        for each layer ``[filters]``.
    """
    squares = [torch.zeros_like(mask.scores[0]) for mask in network.masks]
    count = 0
    for images in batches:
        for total, output in zip(squares, network.activations(images), strict=True):
            total += output.float().square().mean((2, 3)).sum(0)
        count += len(images)
    return [(total / count).sqrt() for total in squares]
