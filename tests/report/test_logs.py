from pathlib import Path

import numpy as np
import pytest

from penstock.errors import InvalidArgumentError
from penstock.report.logs import read_curves


def write(run: Path, training: str, version: int, content: str) -> None:
    folder = run / training / "logs" / f"version_{version}"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(content, encoding="utf-8")


def test_versions_are_joined_and_the_later_counts(tmp_path: Path) -> None:
    write(tmp_path, "decouple", 0, "epoch,step,val/accuracy\n0,9,0.1\n1,19,0.2\n")
    write(tmp_path, "decouple", 2, "epoch,step,val/accuracy\n1,19,0.25\n2,29,0.3\n")
    write(tmp_path, "decouple", 10, "epoch,step,val/accuracy\n2,29,0.35\n")
    (curves,) = read_curves(tmp_path)
    assert curves.training == "decouple"
    assert curves.epochs.tolist() == [1, 2, 3]
    assert curves.values["val/accuracy"].tolist() == [0.1, 0.25, 0.35]


def test_an_epoch_may_stand_in_several_rows(tmp_path: Path) -> None:
    write(tmp_path, "dense", 0, "epoch,step,train/task,val/loss\n0,9,,2.0\n0,9,1.5,\n1,19,1.0,\n")
    (curves,) = read_curves(tmp_path)
    assert curves.values["train/task"].tolist() == [1.5, 1.0]
    assert curves.values["val/loss"][0] == 2.0
    assert np.isnan(curves.values["val/loss"][1])
    assert set(curves.values) == {"train/task", "val/loss"}


def test_trainings_come_in_the_order_of_the_run(tmp_path: Path) -> None:
    for training in ("zuletzt", "decouple", "consolidate", "dense"):
        write(tmp_path, training, 0, "epoch,val/loss\n0,1\n")
    (tmp_path / "dense" / "logs" / "version_1").mkdir()  # a version that was killed before it wrote
    found = [curves.training for curves in read_curves(tmp_path)]
    assert found == ["dense", "decouple", "consolidate", "zuletzt"]


def test_without_logs_there_are_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == []


@pytest.mark.parametrize("content", ["epoch,val/loss\n0,much\n", "time,val/loss\n0,1\n", "epoch,a\nx,1\n"])
def test_a_damaged_log_is_named(tmp_path: Path, content: str) -> None:
    write(tmp_path, "dense", 0, content)
    with pytest.raises(InvalidArgumentError, match=r"metrics\.csv is not a log.*remove it"):
        read_curves(tmp_path)
