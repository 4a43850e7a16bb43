import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from penstock.nn import losses


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax(x: Tensor) -> Tensor:
    return x.exp() / x.exp().sum(dim=1, keepdim=True)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Mean over the batch of ``sum p log(p / q)``."""
    return (p * (p / q).log()).sum(dim=1).mean()


@pytest.mark.parametrize("target", [0.0, 0.5, 0.9])
def test_budget_is_the_distance_of_the_mean_from_the_target(target: float) -> None:
    active = torch.tensor([[0.4], [0.8]])
    assert_close(losses.budget(active, target), torch.tensor(abs(0.6 - target)))


def test_budget_steers_the_mean_and_not_each_input() -> None:
    active = torch.tensor([[0.2], [0.8]], requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.budget(active, 0.5), active)
    assert gradient[0] == gradient[1]


def test_sparsity_is_the_distance_of_the_numbers_of_open_filters_summed_over_layers() -> None:
    codes = [torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0] * 4])]
    assert_close(losses.sparsity(codes, 0.5), torch.tensor(abs(1.5 - 1.0) + abs(0.5 - 2.0)))


def test_sparsity_without_a_target_counts_the_open_filters() -> None:
    codes = [torch.rand(6, 4), torch.rand(6, 9)]
    assert_close(losses.sparsity(codes, 0.0), torch.cat(codes, dim=1).sum(dim=1).mean())


def test_alignment_is_the_divergence_per_filter_of_codes_from_responses_in_this_order() -> None:
    codes, responses = [drawn(0, 6, 4), drawn(1, 6, 9)], [drawn(2, 6, 4), drawn(3, 6, 9)]
    pairs = list(zip(codes, responses, strict=True))
    wanted, reversed_ = torch.zeros(()), torch.zeros(())
    for code, response in pairs:
        wanted = wanted + kl(softmax(response), softmax(code)) / code.shape[1]
        reversed_ = reversed_ + kl(softmax(code), softmax(response)) / code.shape[1]
    assert_close(losses.alignment(codes, responses), wanted)
    assert not torch.isclose(wanted, reversed_)


def test_alignment_moves_the_codes_and_not_the_features() -> None:
    code, response = drawn(0, 5, 7).requires_grad_(), drawn(1, 5, 7).requires_grad_()
    of_code, of_response = torch.autograd.grad(
        losses.alignment([code], [response]), [code, response], allow_unused=True
    )
    assert of_code.abs().sum() > 0
    assert of_response is None


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_softened_divergence_of_the_student(temperature: float) -> None:
    student, teacher = drawn(0, 8, 10), drawn(1, 8, 10)
    wanted = temperature**2 * kl(softmax(teacher / temperature), softmax(student / temperature))
    assert_close(losses.distillation(student, teacher, temperature), wanted)


def test_distillation_is_nothing_between_equals() -> None:
    logits = drawn(0, 4, 3)
    assert losses.distillation(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_linear_probes_sum_the_cross_entropy_of_a_linear_reading_of_each_layer() -> None:
    torch.manual_seed(0)
    probes = losses.LinearProbes([4, 9], classes=3)
    codes, labels = [drawn(0, 5, 4), drawn(1, 5, 9)], torch.tensor([0, 1, 2, 2, 1])
    wanted = torch.zeros(())
    for code, head in zip(codes, probes.heads, strict=True):
        assert head.bias is None
        likelihood = softmax(code @ next(head.parameters()).T)
        wanted = wanted - likelihood[torch.arange(5), labels].log().mean()
    assert_close(probes(codes, labels), wanted)


def test_linear_probes_pass_a_gradient_to_the_codes() -> None:
    torch.manual_seed(0)
    codes = [drawn(0, 5, 4).requires_grad_(), drawn(1, 5, 9).requires_grad_()]
    losses.LinearProbes([4, 9], classes=3)(codes, torch.tensor([0, 1, 2, 2, 1])).backward()
    assert all(code.grad is not None and code.grad.abs().sum() > 0 for code in codes)


def test_codes_that_say_nothing_cost_the_entropy_of_the_label() -> None:
    probes = losses.LinearProbes([6], classes=4)
    nothing = torch.zeros(8, 6)
    assert probes([nothing], torch.arange(8) % 4).item() == pytest.approx(math.log(4))
