"""The values of a benchmark's result: figures by contestant and round, ratios, and whether the bars were met."""

import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

OURS = "ratchet"


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured: ``name`` is the key in what a contestant returns, ``title`` what people read."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    title: str


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure's median, or the median of its ratios against another contestant, should reach.

    Attributes:
        against: The contestant whose figure of the same round divides; None: the figure itself.
    """

    figure: str
    contestant: str
    at_least: float | None
    at_most: float | None
    against: str | None

    def describe(self, figure: Figure) -> str:
        """Return the bar in words."""
        what = f"{self.contestant}: {figure.title}" + (f" / {self.against}" if self.against else "")
        unit = "" if self.against else f" {figure.unit}"
        if self.at_least is not None:
            return f"{what} ≥ {self.at_least:g}{unit}"
        return f"{what} ≤ {self.at_most:g}{unit}"

    def met(self, value: float) -> bool:
        """Say whether a value reaches it."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it ran, as far as it matters for the figures; ``load`` is the mean of the minute before."""

    cpu: str
    n_cores: int
    memory_gb: float
    python: str
    load: float

    @classmethod
    def here(cls) -> "Machine":
        """Describe this machine, now."""
        names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return cls(cpu=(names or [platform.processor() or platform.machine()])[0],
                   n_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
                   memory_gb=round(memory, 1), python=platform.python_version(), load=round(os.getloadavg()[0], 2))


@dataclass(slots=True)
class Result:
    """Everything one run of a benchmark found. ``skipped`` says which peers could not run, and why."""

    name: str
    summary: str
    command: str
    began: str
    machine: Machine
    seconds: float = 0.0
    figures: dict[str, Figure] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)

    def values(self, contestant: str, figure: str) -> list[float]:
        """Return a contestant's values of a figure, round by round; empty if it has none."""
        return self.samples.get(contestant, {}).get(figure, [])

    def ratios(self, figure: str, contestant: str, against: str) -> list[float]:
        """Return the ratios of two contestants' values, each of one round."""
        pairs = zip(self.values(contestant, figure), self.values(against, figure), strict=False)
        return [ours / theirs for ours, theirs in pairs if theirs]

    def reached(self, bar: Bar) -> float | None:
        """Return what stands against a bar, or None if it was not measured."""
        found = (self.ratios(bar.figure, bar.contestant, bar.against) if bar.against
                 else self.values(bar.contestant, bar.figure))
        return statistics.median(found) if found else None


def number(value: float) -> str:
    """Write a figure with three digits that count, and thousands set apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


def spread(values: list[float], unit: str = "") -> str:
    """Write the median and, if there are several values, the least and the greatest."""
    tail = f" {unit}" if unit else ""
    if len(values) == 1:
        return number(values[0]) + tail
    return f"{number(statistics.median(values))}{tail} ({number(min(values))}–{number(max(values))})"
