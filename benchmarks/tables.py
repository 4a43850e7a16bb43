"""Write the README's tables from ``results/*.json``, between the marks that stand there.

python benchmarks/tables.py            # rewrite
python benchmarks/tables.py --check    # exit 1 if the README differs from the results
"""

from __future__ import annotations

import json
import sys
from typing import Any

from machine import RESULTS

README = RESULTS.parent.parent / "README.md"


def main() -> int:
    """Rewrite the README, or compare it."""
    results = json.loads((RESULTS / "main_job.json").read_text(encoding="utf-8"))
    old = README.read_text(encoding="utf-8")
    new = old
    for mark, table in (("main-job", main_job(results)), ("lowerings", lowerings(results))):
        begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
        if not (new.count(begin) == new.count(end) == 1 and new.index(begin) < new.index(end)):
            print(
                f"README needs one place for {mark}, a line {begin.strip()} and a line {end}", file=sys.stderr
            )
            return 1
        before, rest = new.split(begin)
        new = before + begin + table + end + rest.split(end)[1]
    if "--check" in sys.argv:
        if new != old:
            print("README does not fit benchmarks/results: run python benchmarks/tables.py", file=sys.stderr)
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


def main_job(results: dict[str, Any]) -> str:
    """One column a data set, one row a figure."""
    demos = results["demo"]
    rows = (
        ("accuracy, dense", "dense_accuracy", "{:.2%}"),
        ("accuracy, decoupled", "decoupled_accuracy", "{:.2%}"),
        ("share of the dense MACs, gates counted", "mac_fraction", "{:.1%}"),
        ("largest difference of a logit, served against PyTorch", "parity_max_abs", "{:.1e}"),
        ("false positives, promised", "fpr_target", "{:.1%}"),
        ("false positives, measured", "fpr", "{:.1%}"),
        ("honest test images", "fpr_n", "{:,}"),
        ("PGD attacks that succeed", "attack_success", "{:.1%}"),
        ("of these, flagged", "tpr_pgd", "{:.1%}"),
        ("dense time / decoupled time, batch 1, 1 thread", "latency_ratio", "{:.2f}"),
        ("lowering that `auto` took", "lowering", "{}"),
    )
    lines = ["| | " + " | ".join(demos) + " |", "| --- |" + " ---: |" * len(demos)]
    for title, key, form in rows:
        values = ("none" if demo[key] is None else form.format(demo[key]) for demo in demos.values())
        lines.append(f"| {title} | " + " | ".join(values) + " |")
    return "\n".join([*lines, "", _machine(results), ""])


def lowerings(results: dict[str, Any]) -> str:
    """One row a lowering, one column a thread count."""
    rows = results.get("lowerings", [])
    threads = sorted({row["threads"] for row in rows})
    head = " | ".join(f"{count} thread{'s' * (count > 1)}, ms | dense / this" for count in threads)
    lines = [f"| lowering | {head} |", "| --- |" + " ---: | ---: |" * len(threads)]
    for label in dict.fromkeys(row["lowering"] for row in rows):
        own = sorted((row for row in rows if row["lowering"] == label), key=lambda row: row["threads"])
        lines.append(
            f"| {label} | " + " | ".join(f"{row['ms']:.3f} | {row['ratio']:.2f}" for row in own) + " |"
        )
    return "\n".join([*lines, ""])


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    where = f"{machine['cpu']}, {machine['cores']} cores, no GPU in use"
    return f"Measured {machine['date']} at {machine['commit']} on {where}; Python {machine['python']}, {versions}."


if __name__ == "__main__":
    sys.exit(main())
