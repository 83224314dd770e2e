"""docs/benchmarks.md: one section for each benchmark, written from its result; the rest of the page is left alone."""

import re
from pathlib import Path

from benchmarks.harness.results import OURS, Result, number, spread


def update(page: Path, result: Result) -> None:
    """Replace the section of a result in the page, or add it at the end."""
    old = page.read_text() if page.exists() else "# Benchmarks\n"
    begin, end = f"<!-- {result.name} -->", f"<!-- /{result.name} -->"
    new = f"{begin}\n{section(result)}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page.write_text(pattern.sub(lambda _: new, old) if begin in old else f"{old.rstrip()}\n\n{new}\n")


def section(result: Result) -> str:
    """Write a result in Markdown: what ran where, the figures, the ratios, the bars, the notes."""
    machine = result.machine
    parts = [f"## {result.name}", result.summary,
             f"`{result.command}`, {result.began[:10]}, {result.seconds:.0f} s, on {machine.n_cores} cores "
             f"({machine.cpu}), {machine.memory_gb:g} GB, Python {machine.python}; load before {machine.load:g}. "
             f"Medians, with least and greatest of the rounds; ratios are taken round by round.",
             *(f"![{name}](benchmarks/{name})" for name in result.plots), _figures(result)]
    if result.bars:
        parts.append(_bars(result))
    notes = [*result.notes, *(f"Not measured: {name}: {reason}" for name, reason in result.skipped.items())]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def _figures(result: Result) -> str:
    figures = [figure for figure in result.figures.values()
               if any(result.values(name, figure.name) for name in result.samples)]
    rows = [["", *(f"{figure.title} [{figure.unit}]" if figure.unit else figure.title for figure in figures)]]
    for name in result.samples:
        rows.append([f"**{name}**" if name.startswith(OURS) else name,
                     *(_cell(result, name, figure.name) for figure in figures)])
    return _table(rows)


def _cell(result: Result, name: str, figure: str) -> str:
    values = result.values(name, figure)
    if not values:
        return ""
    ratios = result.ratios(figure, OURS, name) if name != OURS else []
    return spread(values) + (f"; ratchet × {spread(ratios)}" if ratios else "")


def _bars(result: Result) -> str:
    rows = [["bar", "reached", ""]]
    for bar in result.bars:
        value = result.reached(bar)
        rows.append([bar.describe(result.figures[bar.figure]), "" if value is None else number(value),
                     "not measured" if value is None else "met" if bar.met(value) else "**missed**"])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])
