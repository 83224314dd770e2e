"""The terminal: a live display while the messages are played, and the report as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.demo.page import percent, rate, seconds
from services.demo.report import lately
from services.demo.tally import Snapshot

_LINE_EVERY_S = 5.0


class Screen:
    """Shows a run: a panel that changes in place on a terminal, a line when something changed elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._next_line_s = 0.0
        self._shown: Snapshot | None = None

    def say(self, text: str) -> None:
        """Print a line; above the panel while that is shown."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self) -> None:
        """Begin to show."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def stop(self) -> None:
        """End showing; idempotent."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, now: Snapshot) -> None:
        """Show how the run stands."""
        if self._live is not None:
            self._live.update(panel(now))
        elif self._is_news(now):
            self._shown = now
            self._next_line_s = now.elapsed_s + _LINE_EVERY_S
            self.say(line(now))

    def _is_news(self, now: Snapshot) -> bool:
        if self._shown is None or now.phase != self._shown.phase:
            return True
        # Time passes and the rate falls while nothing happens; neither is worth a line of its own.
        same = replace(now, elapsed_s=self._shown.elapsed_s, rate=self._shown.rate) == self._shown
        return not same and now.elapsed_s >= self._next_line_s


def line(now: Snapshot) -> str:
    """A run at a moment, in one line."""
    return (f"{now.phase}: {now.done}/{now.total} messages, {now.rate:.0f}/s, "
            f"last {now.window} {percent(now.recent)}, overall {percent(now.overall)}, "
            f"never updated {percent(now.static)}, {now.version}, {now.swaps} swaps, "
            f"loop time {'about ' if now.loop_is_estimate else ''}{seconds(now.loop_p50_s)}, {now.failed} failed")


def panel(now: Snapshot) -> Panel:
    """A run at a moment, as a panel."""
    table = Table.grid(padding=(0, 3))
    for _ in range(4):
        table.add_column()
    table.add_row("messages", f"[bold]{now.done:,}[/] of {now.total:,}", "rate", f"[bold]{now.rate:.1f}[/] a second")
    table.add_row(f"accuracy, last {now.window}", f"[bold green]{percent(now.recent)}[/]", "overall",
                  f"[bold]{percent(now.overall)}[/]")
    about = " (about)" if now.static_is_estimate else ""
    table.add_row(f"never updated{about}", f"[bold yellow]{percent(now.static)}[/] {now.static_version}", "answering",
                  f"[bold]{now.version}[/]")
    table.add_row("versions", f"[bold]{now.versions}[/] published", "swaps", f"[bold]{now.swaps}[/]")
    table.add_row(f"loop time{' (about)' if now.loop_is_estimate else ''}",
                  f"[bold]{seconds(now.loop_p50_s)}[/] p50", "",
                  f"{seconds(now.loop_p95_s)} p95")
    failed = f"[bold {'red' if now.failed else 'green'}]{now.failed}[/]"
    table.add_row("feedback accepted", f"[bold]{now.accepted:,}[/]", "failed requests", failed)
    return Panel(Group(table, Text(), ProgressBar(total=max(now.total, 1), completed=now.done)),
                 title=f"[bold]Ratchet[/] {now.phase}", border_style="blue", padding=(1, 2))


def report_table(report: Mapping[str, Any]) -> Table:
    """The report's main figures."""
    table = Table(title=f"{report['data']['messages']:,} messages, {report['data']['name']}", title_justify="left",
                  show_header=False, padding=(0, 2))
    preq, loop, events, static = (report["prequential_accuracy"], report["loop_time_s"], report["events"],
                                  report["static"])
    recent, n_recent = lately(report)
    rows = [
        ("prequential accuracy", f"[bold]{percent(preq['overall'])}[/] overall, {percent(recent)} over the "
                                 f"last {n_recent:,}"),
        ("never updated", f"{percent(report['static_accuracy'])} ({static['version']}, frozen after "
                          f"{static['frozen_after']:,} messages; on the same ones learning got "
                          f"{percent(static['prequential_on_the_same'])})"),
        ("test messages", f"{percent(report['test_accuracy'])} of {report['test']['messages']:,}, by "
                          f"{', '.join(report['test']['versions']) or '–'}"),
        ("loop time", f"p50 {seconds(loop['p50'])}, p95 {seconds(loop['p95'])} "
                      f"({report['loop_time']['measured']:,} measured, {report['loop_time']['held_out']:,} held out)"),
        ("versions, swaps", f"{report['versions']:,} published, {report['swaps']:,} swaps"),
        ("failed requests", f"{report['failed_requests']:,}"),
        ("events", f"{events['accepted']:,} accepted, {events['stored']:,} stored, {events['effects']:,} effects"),
        ("predict", f"p50 {_ms(report['predict_s']['p50'])}, p99 {_ms(report['predict_s']['p99'])}"),
        ("rate", rate(report)),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return table


def faults(wrong: Sequence[str]) -> str:
    """What is not as promised, as text."""
    return "\n".join(f"[bold red]Not as promised:[/] {sentence}" for sentence in wrong)


def as_promised() -> str:
    """What is said when nothing went wrong."""
    return "[bold green]all as promised:[/] 0 failed requests, nothing lost, nothing doubled"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value * 1000:.0f} ms"
