r"""Measure what flags are worth on exported graphs, and write ``results/detection.json``.

    python benchmarks/detection.py                                             # false positives, minutes
    python benchmarks/detection.py --attacks configs/detect/cifar10.toml       # and all attacks, hours
    python benchmarks/detection.py --networks resnet20-cifar10 --test 500      # a first look

Each zoo entry of the list that is there is exported in every form that it can have, with flags; thresholds are those of
each graph's own scores on calibration images, false positives those on test images. With ``--attacks``, the entry is
attacked as ``penstock detect evaluate`` does it, and all its forms judge the same images. Bundles and evaluations stay
in ``--runs``, and what is there is not made again, unless a bundle would come out otherwise now; each network's result
is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, about

from penstock import zoo
from penstock.attacks.evaluation import evaluate_detection
from penstock.attacks.evaluation_config import EvaluationConfig
from penstock.attacks.evaluation_figures import clean_figures
from penstock.attacks.served import OBSERVED, Served
from penstock.bundle import INPUTS_FILE, Bundle
from penstock.data import Splits, load
from penstock.detect.recipe import DEFAULT, OF_OBSERVERS, Recipe
from penstock.export.pipeline import ExportOptions, export
from penstock.export.plans.inputs import inputs_of, standing, to_json
from penstock.export.runtime import open_bundle
from penstock.files import write_atomic
from penstock.learn.reading import read
from penstock.nn.checkpoint import Checkpoint, load_source
from penstock.nn.prototypes import ConsolidatedNetwork
from penstock.nn.surgery import GatedNetwork

RESULT = "detection.json"
# Each with the network of another architecture from which attacks are transferred to it.
NETWORKS = {
    "vgg16-cifar10": "zoo:resnet56-cifar10",
    "resnet20-cifar10": "zoo:vgg16-cifar10",
    "resnet56-cifar10": "zoo:vgg16-cifar10",
}
SEED = 0
GATES: dict[str, dict[str, Any]] = {
    "masked-fp32": {"lowering": "masked"},
    "gathered-fp32": {"lowering": "gathered"},
    "masked-int8": {"lowering": "masked", "precision": "int8"},
    "masked-doubting": {"lowering": "masked", "detector": OF_OBSERVERS},
    "observed-fp32": {"dense": True, "observe": True},
    "observed-int8": {"dense": True, "observe": True, "precision": "int8"},
}
PROTOTYPES: dict[str, dict[str, Any]] = {
    "masked-fp32": {"lowering": "masked"},
    "routed-fp32": {"lowering": "routed"},
    "routed-int8": {"lowering": "routed", "precision": "int8"},
    "routed-undoubting": {"lowering": "routed", "detector": DEFAULT},
}


def main(arguments: list[str] | None = None, results: Path = RESULTS) -> int:
    """Run everything and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME", help="zoo entries")
    parser.add_argument("--forms", nargs="+", metavar="FORM", help="only these, masked-fp32 for instance")
    parser.add_argument("--attacks", type=Path, metavar="FILE", help="configuration of the evaluation")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--test", type=int, metavar="N", help="only the first so many test images (all)")
    parser.add_argument("--runs", type=Path, default=Path("runs/detection"))
    parsed = parser.parse_args(arguments)
    there = {entry.name for entry in zoo.entries()}
    for name in parsed.networks:
        if name not in there:
            print(f"{name} left out: not in the zoo", file=sys.stderr)
            continue
        entry = _measured(name, parsed)
        kept = _kept(results / RESULT)
        kept["networks"][name] = {"machine": about()} | entry
        write_atomic(results / RESULT, json.dumps(kept, indent=2) + "\n")
    return 0


def _measured(name: str, parsed: argparse.Namespace) -> dict[str, Any]:
    source = f"zoo:{name}"
    checkpoint, _ = load_source(source)
    splits = load(str(checkpoint.config["data"]))
    bundles = _bundles(source, checkpoint, parsed)
    rows = [_false_positives(form, bundle, splits, parsed.test) for form, bundle in bundles.items()]
    found: dict[str, Any] = {"data": checkpoint.config["data"], "false_positives": rows}
    if parsed.attacks is None:
        return found
    config = read(EvaluationConfig, parsed.attacks, parsed.changes)
    config = replace(config, other=NETWORKS.get(name, config.other))
    for observe in (False, True):
        own = {
            form: bundle
            for form, bundle in bundles.items()
            if (bundle.manifest.lowering == OBSERVED) == observe
        }
        if own:
            served = [
                Served(form, bundle.manifest, open_bundle(bundle, threads=0).run)
                for form, bundle in own.items()
            ]
            out = parsed.runs / (f"{name}-observed" if observe else name)
            changed = replace(config, observe=observe)
            key = "observed_attacks" if observe else "attacks"
            found[key] = evaluate_detection(source, changed, out, say=_say, bundles=served)
    return found


def _bundles(source: str, checkpoint: Checkpoint, parsed: argparse.Namespace) -> dict[str, Bundle]:
    """Every form of a network, made where it is not there yet, or there of something else."""
    network = checkpoint.network
    gates = isinstance(network, GatedNetwork) and not isinstance(network, ConsolidatedNetwork)
    forms = GATES if gates else PROTOTYPES
    repository = parsed.runs / "models" / source.partition(":")[2]
    made = {}
    for form, changes in forms.items():
        if parsed.forms and form not in parsed.forms:
            continue
        options = ExportOptions(source=source, repository=repository, name=form, **changes)
        inputs = inputs_of(options)
        there = standing(options, inputs)
        if there is None:
            _say(f"{source}: exporting {form}: it is not there, or was made from something else")
            there = export(options, _say, also={INPUTS_FILE: to_json(inputs)})
        made[form] = there
    return made


def _false_positives(form: str, bundle: Bundle, splits: Splits, most: int | None) -> dict[str, Any]:
    """Of one graph: rates on test images at thresholds that its own calibration scores set."""
    _say(f"{form}: scoring clean images")
    graph = open_bundle(bundle, threads=0)
    test = splits.test.take(np.arange(min(most or len(splits.test), len(splits.test))))
    assert bundle.manifest.calibration is not None
    detector = bundle.manifest.calibration.detector
    unseen = splits.calibration.images
    unseen = unseen[~Recipe.parse(detector).ranking(len(unseen))]
    clean = {}
    for part, images in (("calibration", unseen), ("test", test.images)):
        got = graph.run(images)
        clean[part] = {"path": got["anomaly_score"][:, 0].astype(np.float64)}
    return {
        "form": form,
        "lowering": bundle.manifest.lowering,
        "precision": bundle.manifest.precision,
        "detector": detector,
        "accuracy": float((got["logits"].argmax(axis=1) == test.labels).mean()),
        "flagged_as_served": float(got["adversarial"].mean()),
        "rates": clean_figures(clean, "path", SEED),
    }


def _kept(file: Path) -> dict[str, Any]:
    """What earlier calls measured: networks are many hours together, so each adds its own."""
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return kept
    return {"networks": {}}


def _say(line: str) -> None:
    print(f"- {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
