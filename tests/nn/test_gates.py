import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from penstock.errors import InvalidArgumentError
from penstock.nn.gates import (
    Gate,
    GateConfig,
    GatedConv2d,
    binarize,
    improved_semhash,
    saturating_sigmoid,
)

SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient_of_formula(logits: Tensor, weights: Tensor) -> Tensor:
    """Of ``sum(weights * min(1, max(0, 1.2 sigmoid(y) - 0.1)))``, by autograd of the plain formula."""
    leaf = logits.clone().requires_grad_()
    one, zero = torch.ones_like(leaf), torch.zeros_like(leaf)
    value = torch.minimum(one, torch.maximum(zero, 1.2 / (1 + torch.exp(-leaf)) - 0.1))
    (gradient,) = torch.autograd.grad((value * weights).sum(), leaf)
    return gradient


def lived_in_gate(channels: int, filters: int, *, normalize: bool, seed: int = 0) -> Gate:
    """A gate whose normalisation has seen data, in evaluation."""
    torch.manual_seed(seed)
    gate = Gate(channels, filters, GateConfig(normalize=normalize, initial_logit=0.0))
    for _ in range(20):
        gate(torch.rand(16, channels, 3, 3) * 3 + 1)
    return gate.eval()


@pytest.mark.parametrize(
    ("logit", "value"), [(0.0, 0.5), (3.0, 1.0), (-3.0, 0.0), (1.0, 0.7772703), (-1.0, 0.2227297)]
)
def test_saturating_sigmoid_reaches_its_ends(logit: float, value: float) -> None:
    assert saturating_sigmoid(torch.tensor(logit)).item() == pytest.approx(value, abs=1e-6)


@given(rows=SIZES, columns=SIZES, seed=SEEDS)
def test_without_noise_semhash_is_the_sigmoid_or_the_step(rows: int, columns: int, seed: int) -> None:
    logits = drawn(seed, rows, columns)
    soft = improved_semhash(logits, noise=0.0, hard_share=0.0)
    hard = improved_semhash(logits, noise=0.0, hard_share=1.0)
    assert torch.equal(soft, saturating_sigmoid(logits))
    assert torch.equal(hard, (logits > 0).float())


def test_noise_is_added_before_the_step() -> None:
    logits = drawn(0, 50, 20)
    torch.manual_seed(7)
    noisy = logits + 0.5 * torch.randn_like(logits)
    torch.manual_seed(7)
    assert torch.equal(improved_semhash(logits, noise=0.5, hard_share=1.0), (noisy > 0).float())


@given(rows=st.integers(1, 30), columns=st.integers(1, 70), seed=SEEDS)
def test_a_sample_is_hard_in_all_filters_or_in_none(rows: int, columns: int, seed: int) -> None:
    torch.manual_seed(seed)
    # Logits so small that a soft code is far from 0 and 1.
    codes = improved_semhash(drawn(seed, rows, columns) / 10, noise=0.1)
    hard = (codes == 0) | (codes == 1)
    assert torch.equal(hard.any(dim=1), hard.all(dim=1))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("columns", [1, 16, 512])
def test_the_share_of_hard_samples_depends_on_neither_batch_nor_filters(share: float, columns: int) -> None:
    torch.manual_seed(0)
    batches = [improved_semhash(torch.zeros(64, columns), noise=0.1, hard_share=share) for _ in range(60)]
    hard = torch.stack([((codes == 0) | (codes == 1)).all(dim=1) for codes in batches]).float()
    assert hard.mean().item() == pytest.approx(share, abs=0.04)
    assert (hard.mean(dim=0) - share).abs().max() < 0.3  # every place in the batch takes part


@pytest.mark.parametrize("hard_share", [0.0, 0.5, 1.0])
def test_gradient_is_that_of_the_saturating_sigmoid_for_soft_and_hard(hard_share: float) -> None:
    logits, weights = drawn(1, 40, 30) * 2, drawn(2, 40, 30)
    leaf = logits.clone().requires_grad_()
    codes = improved_semhash(leaf, noise=0.0, hard_share=hard_share)
    (gradient,) = torch.autograd.grad((codes * weights).sum(), leaf)
    torch.testing.assert_close(gradient, gradient_of_formula(logits, weights))


@given(seed=SEEDS)
def test_binarize_is_exact_with_and_without_gradient(seed: int) -> None:
    logits = drawn(seed, 5, 9)
    logits[0, 0] = 0.0  # a gate opens above its threshold, not at it
    wanted = (logits > 0).float()
    assert torch.equal(binarize(logits), wanted)
    with torch.no_grad():
        assert torch.equal(binarize(logits.clone().requires_grad_()), wanted)
    under_gradient = binarize(logits.clone().requires_grad_())
    assert under_gradient.requires_grad
    assert torch.equal(under_gradient.detach(), wanted)


@pytest.mark.parametrize("normalize", [False, True])
def test_a_gate_in_evaluation_gives_exact_bits_and_a_gradient_to_its_input(normalize: bool) -> None:
    gate = lived_in_gate(6, 10, normalize=normalize, seed=2)
    x = (torch.rand(8, 6, 3, 3) * 3 + 1).requires_grad_()
    code, logits = gate(x)
    assert torch.equal(code, (logits > 0).float())
    assert 0 < code.mean() < 1
    (gradient,) = torch.autograd.grad(code.sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("normalize", [False, True])
def test_a_gate_decides_for_an_image_as_it_does_in_a_batch(normalize: bool) -> None:
    gate = lived_in_gate(6, 10, normalize=normalize)
    x = torch.rand(8, 6, 3, 3) * 3 + 1
    torch.testing.assert_close(gate(x).logits, torch.cat([gate(row).logits for row in torch.split(x, 1)]))


@given(channels=st.integers(1, 20), filters=SIZES, normalize=st.booleans(), seed=SEEDS)
def test_folded_tensors_give_the_logits_of_the_gate(
    channels: int, filters: int, normalize: bool, seed: int
) -> None:
    gate = lived_in_gate(channels, filters, normalize=normalize, seed=seed % 1000)
    x = drawn(seed, 4, channels, 2, 3) + 2
    w1, b1, w2, b2 = gate.folded()
    with torch.no_grad():
        y = torch.relu(x.mean(dim=(2, 3)) @ w1.T + b1) @ w2.T + b2
        torch.testing.assert_close(y, gate(x).logits, rtol=1e-4, atol=1e-4)


def test_noise_and_hard_share_rule_a_gate_in_training() -> None:
    gate = Gate(4, 12, GateConfig()).train()
    gate.noise, gate.hard_share = 0.0, 1.0
    code, logits = gate(torch.rand(6, 4, 3, 3))
    assert torch.equal(code, (logits > 0).float())


def test_a_gate_that_starts_static_does_not_depend_on_its_input() -> None:
    gate = Gate(8, 20, GateConfig(start="static")).eval()
    logits = gate(torch.rand(5, 8, 2, 2)).logits
    assert torch.equal(logits, logits[:1].expand_as(logits))


def test_gates_that_start_as_the_release_has_them_are_a_quarter_closed_and_depend_on_their_input() -> None:
    torch.manual_seed(0)
    gate = Gate(64, 2000, GateConfig(start="kaiming")).eval()
    code, logits = gate(torch.rand(200, 64, 1, 1))
    assert 0.6 < code.mean() < 0.85
    assert logits.std(dim=0).mean() > 0.1


def test_a_start_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="start is 'open'; there are uniform, kaiming, static"):
        GateConfig(start="open")


def test_gates_start_open() -> None:
    torch.manual_seed(0)
    gate = Gate(64, 64, GateConfig(initial_logit=1.0)).eval()
    assert gate(torch.rand(20, 64, 4, 4)).code.mean() > 0.9


@pytest.mark.parametrize(("channels", "hidden"), [(16, 4), (64, 16), (3, 1), (1, 1)])
def test_macs_of_a_gate_are_those_of_its_two_linear_layers(channels: int, hidden: int) -> None:
    assert Gate(channels, 7, GateConfig()).macs == channels * hidden + hidden * 7


def test_a_reduction_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="reduction is 0"):
        GateConfig(reduction=0)


def test_a_gated_convolution_silences_closed_filters_and_reports_their_response() -> None:
    torch.manual_seed(3)
    conv, norm = nn.Conv2d(4, 9, 3, padding=1), nn.BatchNorm2d(9)
    gate = Gate(4, 9, GateConfig(initial_logit=0.0))
    layer = GatedConv2d(conv, norm, nn.ReLU(), gate).eval()
    x = torch.rand(5, 4, 6, 6)
    output, code, logits, response = layer(x)
    whole = torch.relu(norm(conv(x)))
    assert torch.equal(output, whole * code[:, :, None, None])
    assert torch.equal(logits, gate(x).logits)
    torch.testing.assert_close(response, whole.mean(dim=(2, 3)))
