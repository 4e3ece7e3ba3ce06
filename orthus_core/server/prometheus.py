"""Counts and times of the server, in Prometheus's text format (version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from threading import Lock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upper bounds of the histograms' buckets, in seconds.
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

Labels = tuple[tuple[str, str], ...]


class Meters:
    """All counts and times. Any thread may change them.

    Args:
        helps: What each name of a counter, gauge or histogram means; those that end with `_total`
            are counters, with `_seconds` histograms, and the others gauges.
    """

    def __init__(self, helps: Mapping[str, str]) -> None:
        self._helps, self._lock = dict(helps), Lock()
        self._values: dict[str, dict[Labels, float]] = {name: {} for name in helps}
        self._buckets: dict[str, dict[Labels, list[int]]] = {name: {} for name in helps}
        for name in helps:
            if not name.endswith(("_total", "_seconds")):
                self._values[name][()] = 0.0

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raises a counter."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[name][key] = self._values[name].get(key, 0.0) + amount

    def set(self, name: str, value: float) -> None:
        """Sets a gauge."""
        with self._lock:
            self._values[name][()] = float(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds a time to a histogram."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts = self._buckets[name].setdefault(key, [0] * (len(SECONDS) + 1))
            counts[bisect_left(SECONDS, seconds)] += 1
            self._values[name][key] = self._values[name].get(key, 0.0) + seconds

    def value(self, name: str, **labels: str) -> float:
        """A counter or gauge, or the sum of a histogram; 0 before the first change."""
        with self._lock:
            return self._values[name].get(tuple(sorted(labels.items())), 0.0)

    def text(self) -> str:
        """All of them as Prometheus reads them."""
        with self._lock:
            return "".join(f"{line}\n" for name in self._helps for line in self._lines(name))

    def _lines(self, name: str) -> Iterator[str]:
        is_histogram = name.endswith("_seconds")
        kind = "counter" if name.endswith("_total") else "histogram" if is_histogram else "gauge"
        yield f"# HELP {name} {self._helps[name]}"
        yield f"# TYPE {name} {kind}"
        for labels, value in self._values[name].items():
            if not is_histogram:
                yield f"{name}{_braced(labels)} {value:.15g}"
                continue
            below = 0
            for bound, count in zip((*SECONDS, "+Inf"), self._buckets[name][labels], strict=True):
                below += count
                yield f"{name}_bucket{_braced((*labels, ('le', str(bound))))} {below}"
            yield f"{name}_sum{_braced(labels)} {value:.6f}"
            yield f"{name}_count{_braced(labels)} {below}"


def _braced(labels: Labels) -> str:
    """Labels as `{path="/health"}`; empty without any."""
    if not labels:
        return ""
    quoted = (f'{name}="{_escaped(value)}"' for name, value in labels)
    return "{" + ",".join(quoted) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
