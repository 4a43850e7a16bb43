import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from penstock.data import ImageSet
from penstock.errors import NotFoundError
from penstock.learn.batches import Batches
from penstock.learn.config import TeacherConfig
from penstock.learn.teacher import Teacher, load_teacher
from penstock.nn.backbones import build_backbone

CPU = torch.device("cpu")
EVERYTHING = torch.arange(40)


def images(seed: int = 0) -> ImageSet:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    return ImageSet(pixels, draw.integers(0, 10, 40), tuple("0123456789"), np.arange(40))


def batches(source: ImageSet | None = None, **changes: Any) -> Batches:
    style: dict[str, Any] = {"training": True, "padding": 1, "flip": True, "views": 3} | changes
    return Batches(source or images(), 16, **style)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone("digits-cnn", 10)


class Counting(nn.Module):
    """Counts the images that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.network = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        answer: torch.Tensor = self.network(x)
        return answer


def test_every_kind_of_device_keeps_answers_of_its_own(tmp_path: Path) -> None:
    """A run that began on a GPU must not go on with what a CPU rounded."""
    Teacher(network(), batches(), tmp_path).prepare(0, CPU)
    elsewhere = Teacher(network(), batches(), tmp_path)
    (kept,) = tmp_path.rglob("view-000.npy")
    with pytest.raises(
        (RuntimeError, NotImplementedError)
    ):  # nothing is computed there, nor taken from the CPU
        elsewhere.prepare(0, torch.device("meta"))
    assert kept.is_file()


@pytest.mark.parametrize("view", [0, 2])
def test_answers_are_the_networks_on_the_same_view(view: int) -> None:
    shown = batches()
    torch.manual_seed(0)
    pixels = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))  # every pixel counts
    teacher = Teacher(pixels, shown)
    teacher.prepare(view, CPU)
    wanted, other = (pixels(shown.show(number, EVERYTHING)) for number in (view, 1))
    spread = float(wanted.std())
    index = torch.tensor([3, 39, 0, 3])
    answers = teacher.answers(view, index)
    assert answers.dtype == torch.float32
    # Kept in half precision, computed in bfloat16: eight bits.
    torch.testing.assert_close(answers, wanted[index], rtol=0.02, atol=0.05 * spread)
    assert (other[index] - wanted[index]).abs().max() > 0.5 * spread  # another view would be noticed


def test_a_batch_is_answered_as_it_is_shown() -> None:
    shown = batches()
    shown.epoch = 5
    teacher = Teacher(network(), shown)
    teacher.prepare(shown.view, CPU)
    for batch in shown:
        with torch.no_grad():
            wanted = network().eval()(batch.images)
        answers = teacher.answers(shown.view, batch.which)
        torch.testing.assert_close(answers, wanted, rtol=0.02, atol=0.05 * float(wanted.std()))


def test_a_teacher_is_frozen_and_in_evaluation() -> None:
    own = network().train()
    teacher = Teacher(own, batches())
    before = {name: value.clone() for name, value in own.state_dict().items()}
    teacher.prepare(0, CPU)
    assert not own.training
    assert not any(parameter.requires_grad for parameter in own.parameters())
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


def test_a_view_is_answered_once(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    teacher = Teacher(first, batches(), tmp_path)
    for _ in range(3):
        teacher.prepare(0, CPU)
    assert first.asked == 40
    teacher.prepare(1, CPU)
    assert first.asked == 80
    later = Teacher(second, batches(), tmp_path)
    for view in (0, 1):
        later.prepare(view, CPU)
        assert torch.equal(later.answers(view, EVERYTHING), teacher.answers(view, EVERYTHING))
    assert second.asked == 0


def test_without_a_folder_nothing_is_kept_between_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Counting()
    for _ in range(2):
        Teacher(own, batches()).prepare(0, CPU)
    assert own.asked == 80
    assert list(tmp_path.iterdir()) == []


OTHERS = {
    "weights": lambda: (network(1), batches()),
    "statistics": lambda: (lived_in(network()), batches()),
    "images": lambda: (network(), batches(images(1))),
    "padding": lambda: (network(), batches(padding=2)),
    "mirroring": lambda: (network(), batches(flip=False)),
}


def lived_in(own: nn.Module) -> nn.Module:
    own(torch.rand(4, 1, 8, 8))  # moves the batch norms' running statistics and nothing else
    return own


@pytest.mark.parametrize("difference", OTHERS)
def test_what_would_answer_otherwise_has_a_name_of_its_own(difference: str, tmp_path: Path) -> None:
    Teacher(network(), batches(), tmp_path).prepare(0, CPU)
    teacher = Teacher(*OTHERS[difference](), tmp_path)
    teacher.prepare(0, CPU)
    assert len(list(tmp_path.iterdir())) == 2
    kept = Teacher(network(), batches(), tmp_path)
    kept.prepare(0, CPU)
    assert not torch.equal(teacher.answers(0, EVERYTHING), kept.answers(0, EVERYTHING))


def test_what_answers_alike_shares_a_name(tmp_path: Path) -> None:
    for shown in (batches(), batches(seed=3, views=99), Batches(images(), 7, padding=1, flip=True)):
        Teacher(network(), shown, tmp_path).prepare(0, CPU)
    assert len(list(tmp_path.rglob("*.npy"))) == 1


def archive() -> bytes:
    content = io.BytesIO()
    np.savez(content, answers=np.zeros((40, 10), np.float16))
    return content.getvalue()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "noise": lambda file: file.write_bytes(bytes(range(256)) * 4),
    "pickle": lambda file: np.save(file, np.array([{}], dtype=object), allow_pickle=True),
    "fewer images": lambda file: np.save(file, np.zeros((39, 10), np.float16)),
    "other type": lambda file: np.save(file, np.zeros((40, 10), np.float32)),
    "a number": lambda file: np.save(file, np.float16(0)),
    "archive": lambda file: file.write_bytes(archive()),
    "folder": lambda file: file.rename(file.with_name("was")).with_name(file.name).mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_answers_are_computed_again(damage: str, tmp_path: Path) -> None:
    teacher = Teacher(network(), batches(), tmp_path)
    teacher.prepare(0, CPU)
    (file,) = tmp_path.rglob("view-000.npy")
    DAMAGES[damage](file)
    again = Teacher(network(), batches(), tmp_path)
    again.prepare(0, CPU)
    assert torch.equal(again.answers(0, EVERYTHING), teacher.answers(0, EVERYTHING))
    if file.is_file():  # a folder in its place is not ours to remove
        counting = Teacher(network(), batches(), tmp_path)
        counting.prepare(0, CPU)
        assert torch.equal(counting.answers(0, EVERYTHING), teacher.answers(0, EVERYTHING))
        assert np.load(file).shape == (40, 10)


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "teachers").write_text("a file where the folder should be")
    teacher = Teacher(network(), batches(), tmp_path / "teachers")
    teacher.prepare(0, CPU)
    assert teacher.answers(0, EVERYTHING).shape == (40, 10)


def test_a_teacher_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.th"):
        load_teacher(TeacherConfig(backbone="digits-cnn", start="nowhere.th"), 10, tmp_path)
