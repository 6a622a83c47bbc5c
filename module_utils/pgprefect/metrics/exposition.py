"""Prometheus' text format: metrics, their samples, and how both are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Union

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"

Number = Union[int, float]


@dataclass(frozen=True)
class Sample:
    """One line: a value of a metric. The suffix is that of a histogram's parts."""

    metric: Metric
    labels: Mapping[str, str]
    value: Number
    suffix: str = ""


@dataclass(frozen=True)
class Metric:
    """A metric with the text that explains it."""

    name: str
    help: str
    kind: str = GAUGE

    def __call__(self, value: Number | datetime | None, **labels: str) -> tuple[Sample, ...]:
        """Return its sample, or nothing where there is no value; an empty label is none to Prometheus."""
        if value is None:
            return ()
        number = value.timestamp() if isinstance(value, datetime) else value
        return (Sample(self, {name: text for name, text in labels.items() if text}, number),)

    def buckets(
        self, limits: Sequence[Number], counts: Sequence[Number], count: Number, total: Number, **labels: str
    ) -> Iterator[Sample]:
        """Return the samples of a histogram: how many values are at most each limit, and how many there are at all."""
        for limit, below in zip([*map(_text, limits), "+Inf"], [*counts, count]):
            yield from (Sample(self, {**one.labels, "le": limit}, below, "_bucket") for one in self(below, **labels))
        yield from (Sample(self, one.labels, total, "_sum") for one in self(total, **labels))
        yield from (Sample(self, one.labels, count, "_count") for one in self(count, **labels))


def render(samples: Iterable[Sample]) -> str:
    """Return the text of all samples, those of a metric together, in the order in which metrics come first."""
    families: dict[Metric, list[Sample]] = {}
    for sample in samples:
        families.setdefault(sample.metric, []).append(sample)
    return "".join(line for metric, found in families.items() for line in _lines(metric, found))


def _lines(metric: Metric, samples: Iterable[Sample]) -> Iterator[str]:
    explained = metric.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {metric.name} {explained}\n# TYPE {metric.name} {metric.kind}\n"
    for sample in samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
        braces = f"{{{labels}}}" if labels else ""
        yield f"{metric.name}{sample.suffix}{braces} {_text(sample.value)}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _text(value: Number) -> str:
    """Return a number, whole where it is."""
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
    return str(int(value)) if whole else repr(value)
