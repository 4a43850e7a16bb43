"""Lowered graphs at reduced precision, each made when it is first asked for."""

from __future__ import annotations

from functools import cache

import onnx_ir as ir
import pytest

from penstock.export.passes.reporting import Report
from penstock.export.precision.fp16 import to_fp16
from penstock.export.precision.int8 import to_int8
from penstock.export.runtime import Outputs
from tests.export.precision.narrowed import (
    FORMS,
    Named,
    Narrow,
    Narrowed,
    SomeImages,
    opened,
)


@pytest.fixture(scope="session")
def narrow(routed: Named, some_images: SomeImages) -> Narrow:
    """Networks with prototypes by name, lowering and precision; each is made when it is first asked for."""

    @cache
    def lowered(network: str, form: str) -> tuple[ir.Model, Outputs]:
        model = routed(network).lowered(FORMS[form]())
        return model, opened(model, single=form == "single").run(some_images(64))

    @cache
    def made(network: str, form: str, precision: str) -> Narrowed:
        model, expected = lowered(network, form)
        images = some_images(64)
        report = Report()
        result = to_int8(model, images, report) if precision == "int8" else to_fp16(model, report)
        graph = opened(result, single=form == "single")
        records = {record.name: record for record in report.records}
        return Narrowed(model, result, records, graph, images, expected, graph.run(images))

    return made
