"""Which of the bundles of the tiny run have gates or flags, and how one is run."""

from __future__ import annotations

from typing import Any

from penstock.bundle import Bundle
from penstock.export.runtime import open_graph

GATED = ("masked", "gathered", "no-flags")
FLAGGING = ("masked", "gathered", "observed")
ALL = (*GATED, "dense", "observed")
CLASSES = 10


def run(bundle: Bundle, images: Any) -> dict[str, Any]:
    return open_graph(bundle.model_file, single=bundle.manifest.single, threads=1).run(images)
