"""A whole disentanglement: frozen network, class masks, choice of beta, figures.

A run lives in a folder:

    config.json                        what was asked for; a folder never changes its configuration
    search/beta-0.02.safetensors       scores and steps done, for each beta that is tried
    sub_architectures.safetensors      the result, see `penstock.nn.sub_architectures`
    figures.json                       what was measured

Calling `disentangle` again on the folder of a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from torch import nn

from penstock.data import Splits, load
from penstock.files import write_atomic
from penstock.learn import runs
from penstock.learn.beta import Candidate, candidate, choose, verdict
from penstock.learn.class_streams import ClassStreams
from penstock.learn.class_tasks import few_of_each, measure_tasks
from penstock.learn.disentangle_config import DisentangleConfig
from penstock.learn.disentangle_figures import measure, refuse_unmeasurable
from penstock.learn.mask_search import Pace, search
from penstock.learn.runs import Say
from penstock.learn.start import load_network, refuse_misfit
from penstock.nn.class_masks import MaskedNetwork, attach_class_masks
from penstock.nn.mask_losses import BottleneckLoss, MaskLoss, ReleaseLoss, channel_scales
from penstock.nn.sub_architectures import SUB_ARCHITECTURES_FILE, SubArchitectures, load_sub_architectures

SCALE_IMAGES = 50  # of each class, that the bottleneck's channel statistics are taken from, at most


def disentangle(
    config: DisentangleConfig,
    out: Path,
    *,
    data: Path | None = None,
    progress: bool = True,
    say: Say = lambda _: None,
) -> SubArchitectures:
    """Run what ``config`` asks for, or go on with it, and leave the result in ``out``.

    Args:
        config: what to do.
        out: run folder; made if it is not there.
        data: folder of the data set; by default what ``PENSTOCK_DATA`` says.
        progress: show progress bars.
        say: told what is going on, in short lines.

    Raises:
        ConfigurationError: the folder holds a run with another configuration, the network does not take the
            images, or they are of too few classes.
        NotFoundError: the data set or the weights to start from are not there.
    """
    if runs.finished(out, config.to_json(), SUB_ARCHITECTURES_FILE, say):
        return load_sub_architectures(out / SUB_ARCHITECTURES_FILE)
    splits = load(config.data, folder=data)
    refuse_unmeasurable(splits, config.measure)
    dense = _frozen(config, splits, data)
    network = attach_class_masks(
        dense, torch.zeros(1, *splits.train.images.shape[1:]), len(splits.class_names)
    ).to("cuda" if torch.cuda.is_available() else "cpu")
    job = _Job(config, network, _streams(config, splits), out, progress)
    # From here on the folder is this configuration's; a typing error above does not spoil it.
    runs.claim(out, config.to_json())
    candidates = [_try(job, beta, splits, say) for beta in config.beta]
    chosen = choose(candidates, config.keep)
    say(verdict(chosen, config.keep))
    job.search(chosen.beta)  # only reads what was found
    about = {
        "beta": chosen.beta,
        "candidates": [asdict(each) for each in candidates],
        "training_images": list(job.streams.counts),
    }
    figures = measure(network, splits, config.measure, config.seed, say).to_json()
    result = SubArchitectures(
        backbone=config.backbone,
        class_names=splits.class_names,
        input_shape=splits.train.images.shape[1:],
        dense=dense,
        layout=network.layout,
        scores=network.scores.cpu(),
        config=config.to_json(),
        figures=about | figures,
    )
    write_atomic(out / runs.FIGURES_FILE, json.dumps(dict(result.figures), indent=2) + "\n")
    result.save(out / SUB_ARCHITECTURES_FILE)
    return result


@dataclass(frozen=True, eq=False)
class _Job:
    """What every search of a run shares."""

    config: DisentangleConfig
    network: MaskedNetwork
    streams: ClassStreams
    out: Path
    progress: bool

    def search(self, beta: float) -> None:
        """Leave the scores that belong to ``beta`` in the network; go on with them where they are half found."""
        config = self.config
        pace = Pace(
            steps=config.steps,
            step_size=config.step_size,
            initial=config.initial,
            classes_at_once=config.classes_at_once,
            seed=config.seed,
            precision=config.precision,
        )
        state = self.out / "search" / f"beta-{beta!r}.safetensors"
        with Progress(transient=True, disable=not self.progress) as bars:
            bar = bars.add_task(f"beta {beta:g}", total=config.steps)

            def stepped(step: int, value: float) -> None:
                bars.update(bar, completed=step, description=f"beta {beta:g}, loss {value:.3f}")

            search(self.network, self._loss(beta), self.streams, pace, state, stepped=stepped)

    def _loss(self, beta: float) -> MaskLoss:
        if self.config.form == "release":
            return ReleaseLoss(beta)
        device = self.network.masks[0].scores.device
        images = [batch.to(device) for batch in self.streams.plain(SCALE_IMAGES)]
        return BottleneckLoss(beta, channel_scales(self.network, images), self.config.noise)


def _try(job: _Job, beta: float, splits: Splits, say: Say) -> Candidate:
    """Search with one beta, and see on validation images what the sub-architectures can do."""
    say(f"searching {job.config.backbone}'s class masks with beta {beta:g}")
    job.search(beta)
    images = few_of_each(splits.validation, job.config.measure.validation)
    tried = candidate(beta, measure_tasks(job.network, images))
    say(
        f"beta {beta:g}: {tried.mac_share:.1%} of the MACs, recall {tried.recall:.2%}, "
        f"balanced accuracy {tried.balanced:.2%}"
    )
    return tried


def _streams(config: DisentangleConfig, splits: Splits) -> ClassStreams:
    padding, flip = runs.augmentation(config.data, splits.train.images.shape[-1])
    return ClassStreams(
        splits.train,
        config.batch_size,
        # The bottleneck's question is yes or no, and both answers are as frequent.
        others=config.batch_size if config.form == "bottleneck" else 0,
        seed=config.seed,
        most=config.images,
        padding=padding,
        flip=flip,
    )


def _frozen(config: DisentangleConfig, splits: Splits, data: Path | None) -> nn.Module:
    """The network as it stands in the file, in evaluation mode, and sure to take the images."""
    classes, shape = len(splits.class_names), splits.train.images.shape[1:]
    network = load_network(config.backbone, config.start, classes, data=data, normalize=config.normalize)
    refuse_misfit(network, config.backbone, config.data, shape)
    return network
