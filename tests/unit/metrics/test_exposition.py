"""Prometheus' text format, as its own library reads it."""

from __future__ import annotations

from datetime import UTC, datetime

from pgprefect.metrics.exposition import COUNTER, HISTOGRAM, Metric, render
from prometheus_client.parser import text_string_to_metric_families

RUNS = Metric("runs", "Runs, a back\\slash\nand a second line.")
FAILURES = Metric("failures_total", "Failures.", COUNTER)
END = Metric("end_timestamp_seconds", "An end.")
SECONDS = Metric("run_seconds", "Durations.", HISTOGRAM)
HOSTILE = 'a "name", a \\ and\na line # HELP {x="1"} é \r\t'


def test_the_samples_of_a_metric_stand_together() -> None:
    samples = [*RUNS(1, flow="a"), *FAILURES(2), *RUNS(0.25, flow="b"), *RUNS(True)]
    assert render(samples) == (
        "# HELP runs Runs, a back\\\\slash\\nand a second line.\n# TYPE runs gauge\n"
        'runs{flow="a"} 1\nruns{flow="b"} 0.25\nruns 1\n'
        "# HELP failures_total Failures.\n# TYPE failures_total counter\nfailures_total 2\n"
    )


def test_any_text_is_a_label() -> None:
    (family,) = text_string_to_metric_families(render(RUNS(3, flow=HOSTILE, deployment="\\n")))
    (sample,) = family.samples
    assert (sample.labels, sample.value) == ({"flow": HOSTILE, "deployment": "\\n"}, 3)
    assert family.documentation == RUNS.help


def test_numbers() -> None:
    values = [0, 1234567890123456789, 0.1 + 0.2, 1e300, -2.5, 5e-324]
    families = text_string_to_metric_families(render(sample for value in values for sample in RUNS(value)))
    assert [float(sample.value) for family in families for sample in family.samples] == list(map(float, values))


def test_what_has_no_value_is_left_out() -> None:
    assert render([*RUNS(None, flow="a"), *END(None)]) == ""
    assert render(RUNS(1, tenant="", flow="a")).endswith('runs{flow="a"} 1\n')


def test_a_time_is_in_seconds() -> None:
    assert render(END(datetime(2026, 1, 1, tzinfo=UTC))).endswith("end_timestamp_seconds 1767225600\n")


def test_a_histogram() -> None:
    text = render(SECONDS.buckets((0.5, 10), (1, 3), 4, 31.5, flow="a"))
    assert text == (
        "# HELP run_seconds Durations.\n# TYPE run_seconds histogram\n"
        'run_seconds_bucket{flow="a",le="0.5"} 1\nrun_seconds_bucket{flow="a",le="10"} 3\n'
        'run_seconds_bucket{flow="a",le="+Inf"} 4\nrun_seconds_sum{flow="a"} 31.5\nrun_seconds_count{flow="a"} 4\n'
    )
    assert [family.type for family in text_string_to_metric_families(text)] == ["histogram"]
