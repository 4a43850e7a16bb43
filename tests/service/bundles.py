"""Tiny real bundles: graphs that keep the contract, every output a simple function of the image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from penstock.bundle import (
    CONFIG_FILE,
    DETECTOR_FILE,
    GATE_LOGITS,
    INPUT,
    OUTPUTS,
    Calibration,
    Manifest,
)
from penstock.bundle_writing import write_bundle
from penstock.detect import FamilyScore
from penstock.detect.recipe import DEFAULT
from penstock.detect.tables import tables_to_bytes
from penstock.export.passes.byte_input import TakeBytes
from penstock.files import sha256
from penstock.paths import PathLayer, PathLayout

SHAPE = (3, 8, 8)
CLASSES = ("ant", "bee", "cat", "dog")
LAYOUT = PathLayout(
    layers=(PathLayer(name="conv1", filters=2, macs=600), PathLayer(name="conv2", filters=4, macs=300)),
    fixed_macs=100,
    dense_macs=1000,
)
THRESHOLD = 1.0
MAX_BATCH = 8
CALIBRATION = Calibration(detector=DEFAULT, target_fpr=0.05, threshold=THRESHOLD, images=100, source="graph")


def tiny_graph(
    *, single: bool, work: str = "", detector: bool = False, shape: tuple[int, int, int] = SHAPE
) -> onnx.ModelProto:
    """A graph that keeps the contract, every output a simple function of the channels' means.

    Args:
        single: whether the batch dimension is fixed to 1.
        work: ``slow`` runs for as long as the first pixel says, some tenths of a second at 1.0;
            ``brittle`` fails at run time when the first pixel is 0.5 or more.
        detector: whether the score is that of `TABLES` rather than the sum of the means.
        shape: of an image.
    """
    batch: int | str = 1 if single else "N"
    rng = np.random.default_rng(7)
    constants: dict[str, npt.NDArray[Any]] = {
        "class_weights": rng.normal(size=(3, len(CLASSES))).astype(np.float32),
        "path_weights": rng.normal(size=(3, LAYOUT.bits)).astype(np.float32),
        "zero": np.zeros(1, dtype=np.float32),
        "bias": rng.normal(size=LAYOUT.bits).astype(np.float32) / 4,
        "threshold": np.full(1, THRESHOLD, dtype=np.float32),
        "axis": np.array([1], dtype=np.int64),
        "first": np.zeros(4, dtype=np.int64),
        "second": np.ones(4, dtype=np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", [INPUT], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "class_weights"], ["clean_logits"]),
        helper.make_node("MatMul", ["means", "path_weights"], ["scaled_gates"]),
        helper.make_node("Sub", ["scaled_gates", "bias"], [GATE_LOGITS]),
        helper.make_node("Greater", [GATE_LOGITS, "zero"], ["open"]),
        helper.make_node("Cast", ["open"], ["path"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["open"], ["open_floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["open_floats"], ["active_macs"], axes=[1], keepdims=1),
        helper.make_node("ReduceSum", ["means", "axis"], ["anomaly_score"], keepdims=1),
        helper.make_node("Greater", ["anomaly_score", "threshold"], ["adversarial"]),
        helper.make_node("Slice", [INPUT, "first", "second"], ["corner"]),
        helper.make_node("Reshape", ["corner", "axis"], ["pixel"]),
    ]
    if detector:
        place = next(place for place, node in enumerate(nodes) if "anomaly_score" in node.output)
        nodes[place : place + 1] = _detector_nodes(constants)
    if work == "slow":
        nodes += _slow_nodes(constants)
    elif work == "brittle":
        constants["two"] = np.full(1, 2, dtype=np.float32)
        nodes += [
            helper.make_node("Mul", ["pixel", "two"], ["doubled"]),
            helper.make_node("Cast", ["doubled"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["zero", "index"], ["nothing"]),
            helper.make_node("Add", ["clean_logits", "nothing"], ["logits"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["clean_logits"], ["logits"]))
    widths = dict(zip(OUTPUTS, (len(CLASSES), LAYOUT.bits, 1, 1, 1), strict=True))
    kinds = {"path": TensorProto.UINT8, "adversarial": TensorProto.BOOL}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, *shape])],
        [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), [batch, width])
            for name, width in widths.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _tables() -> dict[str, npt.NDArray[np.float32]]:
    """A detector of the tiny models' paths, none of its numbers like another."""
    rng = np.random.default_rng(11)
    classes, bits, rank = len(CLASSES), LAYOUT.bits, 2
    directions, _ = np.linalg.qr(rng.normal(size=(bits, rank)))
    tables = {
        "usual": rng.integers(2, size=(classes, bits)),
        "surprise": rng.uniform(0.5, 3, size=(classes, bits)),
        "mean": rng.normal(size=(classes, bits)) / 4,
        "scale": rng.uniform(0.5, 2, size=bits),
        "directions": directions,
        "direction_weight": rng.uniform(0.5, 2, size=rank),
        "residual_weight": np.full(1, 3.0),
        "location": rng.uniform(1, 2, size=(classes, 2)),
        "spread": rng.uniform(0.5, 1, size=(classes, 2)),
    }
    return {name: table.astype(np.float32) for name, table in tables.items()}


TABLES = _tables()


def _detector_nodes(constants: dict[str, npt.NDArray[Any]]) -> list[onnx.NodeProto]:
    """The score as `penstock.detect.combined` defines it."""
    constants |= TABLES | {"unit": np.ones(1, dtype=np.float32), "back": TABLES["directions"].T.copy()}
    constants["direction_weight"] = TABLES["direction_weight"][:, None]
    make = helper.make_node
    own = [
        make("Gather", [name, "own"], [f"own_{name}"])
        for name in ("usual", "surprise", "mean", "location", "spread")
    ]
    return [
        make("ArgMax", ["clean_logits"], ["own"], axis=1, keepdims=0),
        *own,
        make("Sub", ["open_floats", "own_usual"], ["unlike"]),
        make("Abs", ["unlike"], ["unusual"]),
        make("Mul", ["unusual", "own_surprise"], ["surprises"]),
        make("ReduceSum", ["surprises", "axis"], ["likelihood"], keepdims=1),
        make("Sub", [GATE_LOGITS, "own_mean"], ["centred"]),
        make("Div", ["centred", "scale"], ["x"]),
        make("MatMul", ["x", "directions"], ["along"]),
        make("MatMul", ["along", "back"], ["explained"]),
        make("Sub", ["x", "explained"], ["beyond"]),
        make("Mul", ["along", "along"], ["along_squared"]),
        make("MatMul", ["along_squared", "direction_weight"], ["kept"]),
        make("Mul", ["beyond", "beyond"], ["beyond_squared"]),
        make("ReduceSum", ["beyond_squared", "axis"], ["rest"], keepdims=1),
        make("Mul", ["rest", "residual_weight"], ["weighted_rest"]),
        make("Sum", ["unit", "kept", "weighted_rest"], ["distance_squared"]),
        make("Sqrt", ["distance_squared"], ["distance"]),
        make("Concat", ["likelihood", "distance"], ["raw"], axis=1),
        make("Sub", ["raw", "own_location"], ["moved"]),
        make("Div", ["moved", "own_spread"], ["standardised"]),
        make("ReduceMean", ["standardised"], ["anomaly_score"], axes=[1], keepdims=1),
    ]


def _slow_nodes(constants: dict[str, npt.NDArray[Any]]) -> list[onnx.NodeProto]:
    """Multiply a matrix by itself, ``2000 * pixel`` times, and add nothing of it to the logits."""
    constants["rounds"] = np.full(1, 2000, dtype=np.float32)
    constants["scalar"] = np.zeros(0, dtype=np.int64)
    constants["true"] = np.array(True)
    constants["matrix"] = np.eye(256, dtype=np.float32)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "matrix"], ["next"]),
            helper.make_node("Identity", ["going"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [256, 256]),
        ],
    )
    return [
        helper.make_node("Mul", ["pixel", "rounds"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "scalar"], ["trips"]),
        helper.make_node("Loop", ["trips", "true", "matrix"], ["state_at_end"], body=body),
        helper.make_node("ReduceMax", ["state_at_end"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "zero"], ["nothing"]),
        helper.make_node("Add", ["clean_logits", "nothing"], ["logits"]),
    ]


def add_bundle(
    repository: Path,
    name: str,
    *,
    single: bool = False,
    work: str = "",
    input_type: str = "fp32",
    detector: bool = False,
    policy: str = "",
    lowering: str = "",
    shape: tuple[int, int, int] = SHAPE,
) -> Path:
    """Write a version of a tiny model; returns its folder."""
    file = repository.parent / f"{name}.onnx"
    model = ir.from_proto(tiny_graph(single=single, work=work, detector=detector, shape=shape))
    if input_type == "uint8":
        TakeBytes()(model.graph)
    ir.save(model, file)
    also = {DETECTOR_FILE: tables_to_bytes(FamilyScore.of_default(TABLES))} if detector else {}
    manifest = Manifest(
        model_sha256=sha256(file),
        source={"name": "tiny", "sha256": "0" * 64},
        input_shape=shape,
        input_type=input_type,
        class_names=CLASSES,
        layout=LAYOUT,
        lowering=lowering or ("gathered" if single else "masked"),
        max_batch=MAX_BATCH,
        single=single,
        parity={"max_logit_difference": 0.0},
        calibration=CALIBRATION,
        files={file: hashlib.sha256(content).hexdigest() for file, content in also.items()},
    )
    folder = write_bundle(repository, name, manifest, file.read_bytes(), also=also).folder
    if policy:
        with (folder.parent / CONFIG_FILE).open("a") as config:
            config.write(
                f'parameters {{ key: "penstock_flag_policy" value {{ string_value: "{policy}" }} }}\n'
            )
    return folder
