from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from penstock.data import ImageSet
from penstock.errors import ConfigurationError
from penstock.learn.batches import Batch, Batches
from penstock.learn.config import DecoupleConfig, Schedule
from penstock.learn.decoupling import DecoupleTraining, DenseTraining
from penstock.learn.teacher import Teacher
from penstock.learn.training import Distillation, Training, WholeFiles, fit
from penstock.nn.backbones import build_backbone
from penstock.nn.surgery import attach_gates


def images(count: int) -> ImageSet:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return ImageSet(pixels, draw.integers(0, 10, count), tuple("0123456789"), np.arange(count))


def dense_training(steps: int, network: nn.Module, decay: str = "cosine") -> DenseTraining:
    batches = Batches(images(2), 1, training=True)
    schedule = Schedule(epochs=steps // 2, learning_rate=0.1, decay=decay)
    return DenseTraining(network, schedule, batches, 10, seed=0)


def learning_rates(training: DenseTraining, steps: int) -> list[float]:
    setup = training.configure_optimizers()
    optimizer, scheduler = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [2, 4, 18, 20, 22, 40, 100])
def test_learning_rate_rises_falls_and_stays_defined_in_the_shortest_training(steps: int) -> None:
    rates = learning_rates(dense_training(steps, build_backbone("digits-cnn", 10)), steps)
    assert min(rates) > 0
    assert max(rates) <= 0.1
    peak = int(np.argmax(rates))
    assert peak <= max(1, 0.05 * steps)
    assert np.all(np.diff(rates[peak:]) < 0)


@pytest.mark.parametrize("steps", [4, 40, 200])
def test_steps_are_a_tenth_from_the_half_on_and_a_hundredth_from_the_third_quarter_on(steps: int) -> None:
    rates = learning_rates(dense_training(steps, build_backbone("digits-cnn", 10), "steps"), steps)
    half, quarter = steps // 2, steps // 4
    assert rates == pytest.approx([0.1] * half + [0.01] * quarter + [0.001] * quarter)


def without_norms(rate: float, clip: float, folder: Path) -> DenseTraining:
    """Train a network that has no batch norms for one epoch."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    schedule = Schedule(epochs=1, learning_rate=rate, batch_size=8, clip=clip)
    training = DenseTraining(network, schedule, Batches(images(64), 8, training=True), 10, seed=0)
    fit(training, Batches(images(16), 16), folder, precision="32-true", progress=False)
    return training


def test_a_loss_that_is_no_number_ends_the_training_and_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"learning_rate is 1000000.0 and clip 0.0; after epoch 1 the loss is"
    ):
        without_norms(1e6, 0.0, tmp_path)


def test_clipped_gradients_move_no_farther_than_their_norm_allows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = [value.detach().clone() for value in without_norms(1e-12, 0.0, tmp_path / "start").parameters()]
    moved = without_norms(0.1, 1e-3, tmp_path / "clipped").parameters()
    distance = (
        sum(float((new.detach() - old).square().sum()) for new, old in zip(moved, start, strict=True)) ** 0.5
    )
    # Eight steps, each at most the rate times what momentum adds up to of gradients of norm 0.001; weights decay too.
    assert 0 < distance < 8 * 0.1 * (1e-3 / (1 - 0.9) + 1e-4 * 20)


def test_weights_decay_and_biases_and_norms_do_not() -> None:
    network = build_backbone("digits-cnn", 10)
    setup = dense_training(10, network).configure_optimizers()
    decayed, plain = setup["optimizer"].param_groups
    assert decayed["weight_decay"] > 0
    assert plain["weight_decay"] == 0
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(network.parameters()))


def decouple_training(config: DecoupleConfig) -> DecoupleTraining:
    torch.manual_seed(0)
    dense = build_backbone("digits-cnn", 10)
    network = attach_gates(dense, torch.zeros(1, 1, 8, 8), config.gate)
    batches = Batches(images(32), 16, training=True)
    taught = None
    if config.distillation:
        taught = Distillation(Teacher(dense, batches), config.distillation, config.temperature)
        taught.teacher.prepare(0, torch.device("cpu"))
    return DecoupleTraining(network, config, batches, 10, taught)


def first_batch(count: int = 16) -> Batch:
    return next(iter(Batches(images(32), count)))


def at(training: Training, progress: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training believe that it has come so far."""
    monkeypatch.setattr(type(training), "progress", progress)


def test_every_term_of_the_loss_is_weighted(short: Callable[..., DecoupleConfig]) -> None:
    weights = ("mutual_information", "alignment", "sparsity", "budget_weight", "distillation")
    terms = []
    for heavy in (0.0, 1.0):
        config = short(**{name: 1.0 + heavy * (1 + place) for place, name in enumerate(weights)})
        training = decouple_training(config).eval()
        terms.append({name: term.item() for name, term in training.losses(first_batch()).items()})
    factors = {
        "task": 1,
        "mutual_information": 2,
        "alignment": 3,
        "sparsity": 4,
        "budget": 5,
        "distillation": 6,
    }
    assert terms[1] == pytest.approx({name: factors[name] * value for name, value in terms[0].items()})


def test_terms_of_no_weight_are_left_out(short: Callable[..., DecoupleConfig]) -> None:
    none = {"mutual_information": 0.0, "alignment": 0.0, "distillation": 0.0}
    assert set(decouple_training(short(**none)).losses(first_batch())) == {"task", "budget"}
    paper = decouple_training(short(**none, budget_weight=0.0, sparsity=1.0))
    assert set(paper.losses(first_batch())) == {"task", "sparsity"}


def test_the_teacher_is_neither_trained_nor_saved(short: Callable[..., DecoupleConfig]) -> None:
    training = decouple_training(short()).train()
    torch.autograd.backward(list(training.losses(first_batch()).values()))
    names = {name.split(".")[0] for name, _ in training.named_parameters()}
    assert names == {"network", "readers"}
    assert {name.split(".")[0] for name in training.state_dict()} == {"network", "readers"}


def test_every_parameter_has_a_part_in_the_loss(short: Callable[..., DecoupleConfig]) -> None:
    """Devices that train together wait for the gradient of every parameter."""
    for config in (short(), short(mutual_information=0.0)):
        training = decouple_training(config).train()
        torch.autograd.backward(list(training.losses(first_batch()).values()))
        assert all(parameter.grad is not None for parameter in training.parameters())


@pytest.mark.parametrize(("progress", "risen"), [(0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)])
def test_the_terms_of_the_paper_rise_and_the_others_do_not(
    progress: float, risen: float, short: Callable[..., DecoupleConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = []
    for ramp in (0.0, 0.4):
        training = decouple_training(short(sparsity=1.0, ramp=ramp)).eval()
        at(training, progress, monkeypatch)
        terms.append({name: term.item() for name, term in training.losses(first_batch()).items()})
    factors = dict.fromkeys(terms[0], 1.0) | dict.fromkeys(
        ("mutual_information", "alignment", "sparsity"), risen
    )
    assert terms[1] == pytest.approx({name: factors[name] * value for name, value in terms[0].items()})


@pytest.mark.parametrize(("approach", "target"), [(0.0, 0.6), (0.5, 1.0)])
def test_the_budget_is_approached_from_the_dense_network(
    approach: float, target: float, short: Callable[..., DecoupleConfig]
) -> None:
    assert decouple_training(short(approach=approach)).target() == pytest.approx(target)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(AttributeError, match=r"local object|Can't"):
        WholeFiles().save_checkpoint({"epoch": 2, "what": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_sparsity_of_the_paper_is_a_term_of_its_own(short: Callable[..., DecoupleConfig]) -> None:
    training = decouple_training(short(sparsity=2.0, density=0.25)).eval()
    codes = training.gated.eval()(first_batch().images).codes
    expected = 2.0 * sum(abs(code.mean().item() - 0.25) * code.shape[1] for code in codes)
    assert training.losses(first_batch())["sparsity"].item() == pytest.approx(expected, rel=1e-5)


def test_share_of_macs_is_exact_in_bfloat16(short: Callable[..., DecoupleConfig]) -> None:
    training = decouple_training(short()).eval()
    for layer in training.gated.gated_layers:
        torch.nn.init.normal_(layer.gate.expand.bias)  # some filters open, some closed
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = training.gated.eval()(first_batch().images)
        share = training.active_share(output)
    path = torch.cat(output.codes, dim=1).float().numpy()
    assert share[:, 0].numpy() == pytest.approx(training.gated.layout.active_macs(path), abs=1e-6)


def test_training_leaves_the_process_as_it_was(tiny_run: Path) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
