from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from penstock.data import ImageSet
from penstock.learn.batches import Batches
from penstock.learn.config import DecoupleConfig, Schedule
from penstock.learn.decoupling import DecoupleTraining, DenseTraining
from penstock.learn.training import WholeFiles
from penstock.nn.backbones import build_backbone
from penstock.nn.surgery import attach_gates


def images(count: int) -> ImageSet:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    return ImageSet(pixels, draw.integers(0, 10, count), tuple("0123456789"), np.arange(count))


def dense_training(steps: int, network: nn.Module) -> DenseTraining:
    batches = Batches(images(2), 1, training=True)
    return DenseTraining(network, Schedule(epochs=steps // 2, learning_rate=0.1), batches, 10, seed=0)


@pytest.mark.parametrize("steps", [2, 4, 18, 20, 22, 40, 100])
def test_learning_rate_rises_falls_and_stays_defined_in_the_shortest_training(steps: int) -> None:
    setup = dense_training(steps, build_backbone("digits-cnn", 10)).configure_optimizers()
    optimizer, scheduler = setup["optimizer"], setup["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert min(rates) > 0
    assert max(rates) <= 0.1
    peak = int(np.argmax(rates))
    assert peak <= max(1, 0.05 * steps)
    assert np.all(np.diff(rates[peak:]) < 0)


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
    return DecoupleTraining(network, dense, config, batches, 10)


def test_every_term_of_the_loss_is_weighted(short: Callable[..., DecoupleConfig]) -> None:
    plain = short(mutual_information=1.0, alignment=1.0, budget_weight=1.0, distillation=1.0)
    heavy = short(mutual_information=2.0, alignment=3.0, budget_weight=4.0, distillation=5.0)
    batch = next(iter(Batches(images(16), 16)))
    terms = []
    for config in (plain, heavy):
        training = decouple_training(config).eval()
        terms.append({name: term.item() for name, term in training.losses(*batch).items()})
    factors = {"task": 1, "mutual_information": 2, "alignment": 3, "budget": 4, "distillation": 5}
    assert terms[1] == pytest.approx({name: factors[name] * value for name, value in terms[0].items()})


def test_terms_of_no_weight_are_left_out(short: Callable[..., DecoupleConfig]) -> None:
    training = decouple_training(short(mutual_information=0.0, alignment=0.0, distillation=0.0))
    assert set(training.losses(*next(iter(Batches(images(16), 16))))) == {"task", "budget"}


def test_the_teacher_is_neither_trained_nor_saved(short: Callable[..., DecoupleConfig]) -> None:
    training = decouple_training(short()).train()
    terms = training.losses(*next(iter(Batches(images(16), 16))))
    torch.autograd.backward(list(terms.values()))
    names = {name.split(".")[0] for name, _ in training.named_parameters()}
    assert names == {"network", "readers"}
    assert {name.split(".")[0] for name in training.state_dict()} == {"network", "readers"}


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
    batch = next(iter(Batches(images(16), 16)))
    training = decouple_training(short(sparsity=2.0, density=0.25)).eval()
    codes = training.gated.eval()(batch[0]).codes
    expected = 2.0 * np.mean([abs(code.mean().item() - 0.25) for code in codes])
    assert training.losses(*batch)["sparsity"].item() == pytest.approx(expected, rel=1e-5)


def test_share_of_macs_is_exact_in_bfloat16(short: Callable[..., DecoupleConfig]) -> None:
    training = decouple_training(short()).eval()
    for layer in training.gated.gated_layers:
        torch.nn.init.normal_(layer.gate.expand.bias)  # some filters open, some closed
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = training.gated.eval()(next(iter(Batches(images(16), 16)))[0])
        share = training.active_share(output)
    path = torch.cat(output.codes, dim=1).float().numpy()
    assert share[:, 0].numpy() == pytest.approx(training.gated.layout.active_macs(path), abs=1e-6)


def test_training_leaves_the_process_as_it_was(tiny_run: Path) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
