"""The main job, end to end, on real images, in one command.

Learn gates (or take a committed checkpoint), export the dense and the decoupled network, start the real server, ask
it with stock tritonclient about honest and attacked images, and say what came back in one table.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from rich.console import Console
from tritonclient.utils import InferenceServerException

from penstock.attacks.pgd import PGD
from penstock.bundle import FLAG, INPUT, LOGITS, PATH, Bundle
from penstock.data import ImageSet, load
from penstock.errors import InvalidArgumentError, UnavailableError
from penstock.export.autotune.measure import measure
from penstock.export.pipeline import ExportOptions, export
from penstock.export.runtime import open_bundle
from penstock.files import write_atomic
from penstock.learn.config import DecoupleConfig, Schedule
from penstock.learn.decouple import decouple
from penstock.nn.checkpoint import load_source
from penstock.nn.inference import answer
from penstock.paths import PathSet
from penstock.report.main_job import Figures, figures_table
from penstock.report.paths import draw_paths

DATA = ("digits", "cifar10")
ZOO_CIFAR10 = "zoo:resnet20-cifar10"
ATTACKED_IMAGES = 200
BATCH = 8  # images per request
START_SECONDS = 60.0
# An 8x8 digit has few pixels and strong strokes: it takes more than the customary 8/255 to turn it into another.
ATTACKS = {"digits": PGD(eps=0.1, step=0.0125, steps=40), "cifar10": PGD()}
DIGITS = DecoupleConfig(
    data="digits",
    backbone="digits-cnn",
    dense=Schedule(epochs=60, batch_size=64, learning_rate=0.05),
    decouple=Schedule(epochs=60, batch_size=64, learning_rate=0.05),
    budget=0.5,
    settle=0.3,
)

Say = Callable[[str], None]


def run_demo(data: str, picture: Path, json_file: Path | None, console: Console) -> Figures:
    """Run the demo and print its table.

    Args:
        data: ``digits`` trains a small network first; ``cifar10`` takes the committed ResNet-20.
        picture: PNG file to write, paths by class.
        json_file: where to write the figures, if anywhere.
        console: where to print.

    Raises:
        PenstockError: whatever went wrong, in words.
    """
    if data not in DATA:
        raise InvalidArgumentError(f"no demo for {data!r}; there are {', '.join(DATA)}")

    def say(line: str) -> None:
        console.print(f"[dim]- {line}[/dim]", highlight=False)

    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        figures = _measure(data, Path(folder), picture, say)
    console.print(figures_table(data, figures))
    console.print(f"Paths by class: {picture}", highlight=False)
    if json_file is not None:
        write_atomic(json_file, json.dumps(asdict(figures), indent=2) + "\n")
    return figures


def _measure(data: str, folder: Path, picture: Path, say: Say) -> Figures:
    splits = load(data)
    source = ZOO_CIFAR10
    if data == "digits":
        decouple(DIGITS, folder / "run", progress=False, say=say)
        source = str(folder / "run")
    checkpoint, _ = load_source(source)
    models = folder / "models"
    dense = export(ExportOptions(source=source, repository=models, name="dense", dense=True), say)
    decoupled = export(ExportOptions(source=source, repository=models, name="decoupled"), say)
    latency = _latency(dense, decoupled, splits.test)

    say(f"attacking {ATTACKED_IMAGES} images: {ATTACKS[data]}")
    victims = splits.test.take(np.arange(ATTACKED_IMAGES))
    attacked = ATTACKS[data](checkpoint.network, victims.floats(), victims.labels)

    with _server(models) as url:
        say(f"asking the server at {url} about {len(splits.test)} honest and {len(attacked)} attacked images")
        client = Asker(url)
        plain = client.ask("dense", splits.test.floats())
        honest = client.ask("decoupled", splits.test.floats())
        hostile = client.ask("decoupled", attacked)

    answered = splits.test.take(honest.which)
    expected = answer(checkpoint.network, answered.images)
    same_path = (expected.bits == honest.path).all(axis=1)
    paths = PathSet(checkpoint.network.layout, honest.path)
    draw_paths(paths, answered.labels, answered.class_names, picture)
    both = hostile.which[np.isin(hostile.which, honest.which)]
    was_right = honest.right(splits.test, both)
    fooled = was_right & ~hostile.right(victims, both)
    flagged = hostile.flagged[np.isin(hostile.which, both)][fooled]
    calibration = decoupled.manifest.calibration
    assert calibration is not None
    return Figures(
        dense_accuracy=float(plain.right(splits.test, plain.which).mean()),
        decoupled_accuracy=float(honest.right(splits.test, honest.which).mean()),
        mac_fraction=float(paths.active_macs.mean()),
        latency_ratio=latency["dense"] / latency["decoupled"],
        dense_ms=latency["dense"],
        decoupled_ms=latency["decoupled"],
        lowering=decoupled.manifest.lowering,
        parity_max_abs=float(np.abs(expected.logits - honest.logits)[same_path].max()),
        top1_agreement=float((expected.predicted == honest.logits.argmax(1)).mean()),
        fpr_target=calibration.target_fpr,
        fpr=float(honest.flagged.mean()),
        fpr_n=len(answered),
        calibration_n=calibration.images,
        tpr_pgd=float(flagged.mean()) if len(flagged) else None,
        attack_success=float(fooled.sum() / max(1, was_right.sum())),
        attacked_n=len(both),
        served_requests=client.served,
        failed_requests=client.failed,
    )


@dataclass(frozen=True, eq=False)
class Served:
    """What a server answered.

    Attributes:
        which: ``[M]`` int64, the asked images that were answered, ascending.
        logits: ``[M, classes]`` float32.
        path: ``[M, P]`` uint8.
        flagged: ``[M]`` bool.
    """

    which: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    path: npt.NDArray[np.uint8]
    flagged: npt.NDArray[np.bool_]

    def right(self, images: ImageSet, which: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each of the images ``which``, all of them answered, got its right class."""
        rows = np.searchsorted(self.which, which)
        right: npt.NDArray[np.bool_] = self.logits[rows].argmax(axis=1) == images.labels[which]
        return right


class Asker:
    """Asks a server with stock tritonclient, and counts.

    Args:
        url: ``HOST:PORT``.
    """

    def __init__(self, url: str) -> None:
        self.client = triton.InferenceServerClient(url)
        self.served = 0
        self.failed = 0

    def ask(self, model: str, images: npt.NDArray[np.float32]) -> Served:
        """Ask about ``[N, C, H, W]`` in 0..1, in requests of a few images each; a failed one is counted and left out.

        Raises:
            UnavailableError: every request failed, so there is nothing to report.
        """
        which, pieces = [], []
        for part in np.array_split(np.arange(len(images)), -(-len(images) // BATCH)):
            tensor = triton.InferInput(INPUT, list(images[part].shape), "FP32")
            tensor.set_data_from_numpy(images[part])
            try:
                result = self.client.infer(model, [tensor])
            except InferenceServerException as error:
                self.failed += 1
                last = error
                continue
            self.served += 1
            which.append(part)
            pieces.append([result.as_numpy(name) for name in (LOGITS, PATH, FLAG)])
        if not pieces:
            raise UnavailableError(f"the server answered no request for {model!r}: {last}")
        logits, path, flags = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        return Served(np.concatenate(which), logits, path, flags[:, 0])


@contextmanager
def _server(models: Path) -> Iterator[str]:
    """Run ``penstock serve`` in a process of its own and yield its address."""
    command = [sys.executable, "-m", "penstock.cli", "serve", "--model-repository", str(models)]
    command += ["--grpc-port", "0", "--metrics-port", "0"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        overdue = threading.Timer(START_SECONDS, process.kill)
        overdue.start()
        try:
            announced = re.search(r"at (\S+:\d+)", process.stdout.readline())
            overdue.cancel()
            if announced is None:
                process.wait(START_SECONDS)
                log.seek(0)
                said = log.read().strip().splitlines() or ["nothing"]
                raise UnavailableError(f"the server did not start; the last that it said: {said[-1]}")
            yield announced.group(1)
        finally:
            overdue.cancel()
            process.terminate()
            process.wait(START_SECONDS)


def _latency(dense: Bundle, decoupled: Bundle, images: ImageSet) -> dict[str, float]:
    """Median milliseconds of one image in ONNX Runtime on one thread, measured in turns."""
    bundles = {"dense": dense, "decoupled": decoupled}
    graphs = {name: open_bundle(bundle, threads=1) for name, bundle in bundles.items()}
    return measure(graphs, images.images[:50])
