"""What the main job measured, and the table that shows it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the demo measured; shares are between 0 and 1.

    Attributes:
        dense_accuracy: of the dense network, served, on the test images.
        decoupled_accuracy: of the decoupled one, on the same.
        mac_fraction: mean share of the dense MACs, from the path bits that the server returned, gates counted.
        latency_ratio: dense time / decoupled time, batch 1, one thread, medians of interleaved runs.
        dense_ms: time of the dense network.
        decoupled_ms: time of the decoupled one, gates and detector included.
        lowering: that ``auto`` chose for the decoupled one.
        parity_max_abs: largest difference of a logit, served against PyTorch, over images whose paths agree.
        top1_agreement: share of images with the same most likely class, served and in PyTorch.
        fpr_target: promised false-positive rate.
        fpr: measured share of honest test images that were flagged.
        fpr_n: number of these.
        calibration_n: number of images that the threshold was set on.
        tpr_pgd: share of the successful attacks that were flagged; ``None`` if none succeeded.
        attack_success: share of the rightly answered images that the attack turned into another class.
        attacked_n: number of attacked images.
        served_requests: requests that were answered.
        failed_requests: requests that were not.
    """

    dense_accuracy: float
    decoupled_accuracy: float
    mac_fraction: float
    latency_ratio: float
    dense_ms: float
    decoupled_ms: float
    lowering: str
    parity_max_abs: float
    top1_agreement: float
    fpr_target: float
    fpr: float
    fpr_n: int
    calibration_n: int
    tpr_pgd: float | None
    attack_success: float
    attacked_n: int
    served_requests: int
    failed_requests: int


def figures_table(data: str, f: Figures) -> Table:
    """The demo's table: what was measured, its value, and how."""
    table = Table(title=f"Penstock on {data}", show_header=True, header_style="bold")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_column("how")
    faster = (
        "faster" if f.latency_ratio >= 1 else "slower: this network is too small to gain by skipping filters"
    )
    rows = (
        ("accuracy, dense", f"{f.dense_accuracy:.2%}", f"{f.fpr_n:,} test images, served"),
        ("accuracy, decoupled", f"{f.decoupled_accuracy:.2%}", "the same images"),
        (
            "share of MACs",
            f"{f.mac_fraction:.1%}",
            "from the path bits that the server returned, gates counted",
        ),
        ("latency, dense", f"{f.dense_ms:.3f} ms", "ONNX Runtime, batch 1, 1 thread, median, interleaved"),
        (
            "latency, decoupled",
            f"{f.decoupled_ms:.3f} ms",
            f"lowering {f.lowering}, gates and detector included",
        ),
        ("speed-up", f"{f.latency_ratio:.2f}x", faster),
        ("parity", f"{f.parity_max_abs:.1e}", "largest difference of a logit, served against PyTorch"),
        ("top-1 agreement", f"{f.top1_agreement:.2%}", "served against PyTorch"),
        (
            "false positives, promised",
            f"{f.fpr_target:.1%}",
            f"calibrated on {f.calibration_n:,} unseen images",
        ),
        ("false positives, measured", f"{f.fpr:.1%}", f"{f.fpr_n:,} other unseen images"),
        ("attacks that succeed", f"{f.attack_success:.1%}", f"PGD through the gates, {f.attacked_n} images"),
        (
            "of these, flagged",
            "-" if f.tpr_pgd is None else f"{f.tpr_pgd:.1%}",
            "the attack does not know the detector",
        ),
        ("requests", f"{f.served_requests:,}", f"{f.failed_requests} failed"),
    )
    for row in rows:
        table.add_row(*row)
    return table
