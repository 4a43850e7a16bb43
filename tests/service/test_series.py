"""Series of a model come with it, and go after its last request."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from penstock.service.series import MODEL, ModelSeries


def test_figures_of_a_model_stay_until_its_last_request_has_ended() -> None:
    series = ModelSeries()
    registry = CollectorRegistry()
    counter = series.add(Counter("asked", "Requests", MODEL, registry=registry))

    def value(*labels: str) -> float | None:
        return registry.get_sample_value("asked_total", dict(zip(MODEL, labels, strict=True)))

    series.keep([("tiny", "1"), ("tiny", "2")])
    series.begin(("tiny", "1"))
    series.begin(("tiny", "1"))
    counter.labels("tiny", "1").inc()
    series.keep([("tiny", "2")])
    series.end(("tiny", "1"))
    assert value("tiny", "1") == 1
    assert series.shows(("tiny", "1"))
    counter.labels("tiny", "1").inc()
    assert value("tiny", "1") == 2
    series.end(("tiny", "1"))
    assert value("tiny", "1") is None
    assert (series.shows(("tiny", "1")), series.shows(("tiny", "2"))) == (False, True)
    series.begin(("tiny", "2"))
    series.keep([])
    series.keep([("tiny", "2")])  # and loaded again
    counter.labels("tiny", "2").inc()
    series.end(("tiny", "2"))
    assert value("tiny", "2") == 1
