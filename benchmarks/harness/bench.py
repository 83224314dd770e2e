"""One run of a benchmark: contestants in turn, what they measured, and the bars."""

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.harness import peers
from benchmarks.harness.results import OURS, Bar, Figure, Machine, Result, number, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

Contestant = Callable[[], Mapping[str, float]]


class Bench:
    """What a benchmark measures with; see the package's docstring."""

    def __init__(self, name: str, summary: str, *, arguments: Sequence[str] = (), rounds: int,
                 plots: Path | None) -> None:
        """Begin.

        Args:
            arguments: The command line after the benchmark's name, for the report.
            rounds: How often each contestant runs, unless ``alternate`` is told otherwise.
            plots: The folder for plots; None draws none.
        """
        self.result = Result(name=name, summary=summary, command=shlex.join(["ratchet", "bench", name, *arguments]),
                             machine=Machine.here(),
                             began=datetime.now(UTC).isoformat(timespec="seconds"))
        self._rounds, self._plots, self._started_s = rounds, plots, time.monotonic()

    @property
    def rounds(self) -> int:
        """How often each contestant runs."""
        return self._rounds

    def figure(self, name: str, unit: str, *, better: Literal["higher", "lower"] = "higher", title: str = "") -> None:
        """Declare a figure; what a contestant returns under no declared name is refused."""
        self.result.figures[name] = Figure(name, unit, better, title or name.replace("_", " "))

    def alternate(self, contestants: Mapping[str, Contestant], *, rounds: int | None = None) -> None:
        """Run all contestants once a round, every other round in reverse: a drift of the machine hits all alike.

        A contestant that raises ``PeerUnavailable`` is reported as skipped and not tried again; any other error is ours
        and ends the run.
        """
        for turn in range(rounds or self._rounds):
            order = list(contestants.items())
            for name, measure in reversed(order) if turn % 2 else order:
                if name not in self.result.skipped:
                    self._measure(turn, name, measure)

    def record(self, contestant: str, figures: Mapping[str, float]) -> None:
        """Keep one round's figures of a contestant that was measured in some other way."""
        unknown = sorted(set(figures) - set(self.result.figures))
        if unknown:
            raise ValueError(f"{contestant} returned {', '.join(unknown)}, which bench.figure() has not declared")
        kept = self.result.samples.setdefault(contestant, {})
        for name, value in figures.items():
            kept.setdefault(name, []).append(float(value))

    def skip(self, contestant: str, reason: str) -> None:
        """Say that a contestant takes no part, and why."""
        self.result.skipped[contestant] = reason
        self._say(f"{contestant}: skipped: {reason}")

    def bar(self, figure: str, *, contestant: str = OURS, at_least: float | None = None, at_most: float | None = None,
            against: str | None = None) -> None:
        """State what should be reached; reported as met or missed, and never raised."""
        if (at_least is None) == (at_most is None) or figure not in self.result.figures:
            raise ValueError(f"a bar on {figure} needs a declared figure and one of at_least and at_most")
        self.result.bars.append(Bar(figure, contestant, at_least, at_most, against))

    def note(self, text: str) -> None:
        """Keep a sentence for the report."""
        self.result.notes.append(text)
        self._say(text)

    def peer(self, name: str) -> Path:
        """Return the Python of a peer's own environment.

        Raises:
            PeerUnavailable: It cannot be installed here.
        """
        return peers.python_of(name)

    def plot_bars(self, figure: str, *, title: str = "") -> None:
        """Draw a figure's medians, with least and greatest, for every contestant that has it."""
        if self._plots is not None:
            from benchmarks.harness.plots import bars

            self.plot(bars(self.result, self.result.figures[figure], title), figure)

    def plot(self, drawn: "Plot", name: str) -> None:
        """Keep a matplotlib figure as ``BENCHMARK-NAME.svg``."""
        if self._plots is not None:
            from benchmarks.harness.plots import save

            path = self._plots / f"{self.result.name}-{name.replace('_', '-')}.svg"
            save(drawn, path)
            self.result.plots.append(path.name)

    def finish(self, path: Path) -> Result:
        """Write the result as JSON, print ratios and bars, and return it."""
        self.result.seconds = round(time.monotonic() - self._started_s, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self.result), indent=1, ensure_ascii=False) + "\n")
        print()
        for line in lines(self.result):
            print(line)
        print(f"{self.result.seconds:.0f} s; written to {path}", flush=True)
        return self.result

    def _measure(self, turn: int, name: str, measure: Contestant) -> None:
        started_s = time.monotonic()
        try:
            found = measure()
        except peers.PeerUnavailable as exc:
            self.skip(name, str(exc))
            return
        self.record(name, found)
        shown = ", ".join(f"{self.result.figures[key].title} {number(value)} {self.result.figures[key].unit}".rstrip()
                          for key, value in found.items())
        self._say(f"round {turn + 1}: {name}: {shown} ({time.monotonic() - started_s:.0f} s)")

    def _say(self, line: str) -> None:
        print(f"[{self.result.name} {time.monotonic() - self._started_s:4.0f}s] {line}", flush=True)


def lines(result: Result) -> list[str]:
    """Return what was found in words: medians, ratios against each contestant, and bars."""
    found = []
    for figure in result.figures.values():
        for contestant in result.samples:
            if values := result.values(contestant, figure.name):
                ratios = result.ratios(figure.name, OURS, contestant) if contestant != OURS else []
                tail = f"; {OURS} / {contestant}: {spread(ratios)}" if ratios else ""
                found.append(f"{figure.title}: {contestant}: {spread(values, figure.unit)}{tail}")
    for bar in result.bars:
        value = result.reached(bar)
        state = "not measured" if value is None else ("met" if bar.met(value) else "MISSED") + f", {number(value)}"
        found.append(f"bar: {bar.describe(result.figures[bar.figure])}: {state}")
    return found
