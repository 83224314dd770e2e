"""Plots as inline SVG: no library, no script, and colours that follow the page's light or dark scheme.

Each plot is drawn twice, for wide and for narrow screens, so that its text is readable on both; the style sheet
shows one of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Frame:
    """The size of a plot in CSS pixels, and the room around it for the axes."""

    width: int
    height: int
    n_ticks: int
    left: int = 46
    right: int = 22
    top: int = 18
    bottom: int = 40

    def x(self, share: float) -> float:
        """Where a share (0 to 1) of the width lies."""
        return self.left + share * (self.width - self.left - self.right)

    def y(self, share: float) -> float:
        """Where a share (0 to 1) of the height lies, from below."""
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)


WIDE = Frame(960, 340, n_ticks=6)
NARROW = Frame(360, 250, n_ticks=4)


@dataclass(frozen=True)
class Line:
    """A series of (x, y) points, y from 0 to 1; ``css`` is its class, with the colour in the page's style sheet."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A version that began to answer at x; one with a label is a new generation and gets a line of its own."""

    x: float
    label: str = ""


def accuracy(lines: Sequence[Line], marks: Sequence[Mark], n_messages: int) -> str:
    """Accuracy over the messages of the stream, with a tick for each version."""
    return _both(lambda frame: _accuracy(frame, lines, marks, max(n_messages, 1)))


def bars(counts: Sequence[int], edges: Sequence[float], title: str, marks: Sequence[tuple[str, float]]) -> str:
    """A histogram over seconds, with named values marked.

    Args:
        counts: One for each bin.
        edges: One more than bins, in seconds, evenly spaced.
        marks: (name, value in seconds) drawn as lines.
    """
    return _both(lambda frame: _bars(frame, counts, edges, title, marks))


def _both(draw: Callable[[Frame], str]) -> str:
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'


def _accuracy(at: Frame, lines: Sequence[Line], marks: Sequence[Mark], right: int) -> str:
    parts = [_open(at, f"Accuracy over {right} messages")]
    parts += [_level(at, part / 5, f"{part * 20}%") for part in range(6)]
    parts += [_under(at, tick / right, f"{tick:,}") for tick in _ticks(right, at.n_ticks)]
    base = at.y(0)
    rug = "".join(f"M{at.x(mark.x / right):.1f} {base + 4:.1f}v7" for mark in marks)
    if rug:
        parts.append(f'<path class="rug" d="{rug}"><title>a version began to answer</title></path>')
    for mark in marks:
        if mark.label:
            parts.append(_upright(at, at.x(mark.x / right), mark.label, row=0))
    for line in lines:
        if line.points:
            path = "L".join(f"{at.x(x / right):.1f} {at.y(y):.1f}" for x, y in line.points)
            parts.append(f'<path class="line {line.css}" d="M{path}"><title>{escape(line.name)}</title></path>')
            x, y = line.points[-1]
            parts.append(f'<circle class="dot {line.css}" cx="{at.x(x / right):.1f}" cy="{at.y(y):.1f}" r="3.5"/>')
    return "".join([*parts, "</svg>"])


def _bars(at: Frame, counts: Sequence[int], edges: Sequence[float], title: str,
          marks: Sequence[tuple[str, float]]) -> str:
    top = max(counts, default=0) or 1
    n, low, high = len(counts), edges[0], edges[-1]
    # A fifth is left free above the highest bar for the names of the marks.
    parts = [_open(at, title)]
    parts += [_level(at, part / 5, f"{top * part / 4:,.0f}") for part in range(5)]
    for place, count in enumerate(counts):
        if count:
            x, y, width = at.x(place / n), at.y(0.8 * count / top), max(at.x(1 / n) - at.left - 2, 1)
            parts.append(f'<rect class="bar" x="{x + 1:.1f}" y="{y:.1f}" width="{width:.1f}" '
                         f'height="{at.y(0) - y:.1f}" rx="1.5">'
                         f"<title>{edges[place]:.2f} to {edges[place + 1]:.2f} s: {count:,}</title></rect>")
    step = max(1, -(-n // at.n_ticks))
    parts += [_under(at, place / n, f"{edges[place]:g} s") for place in range(0, n + 1, step)]
    for row, (name, value) in enumerate(marks):
        parts.append(_upright(at, at.x((min(value, high) - low) / (high - low)), f"{name} {value:.2f} s", row=row))
    return "".join([*parts, "</svg>"])


def _open(at: Frame, title: str) -> str:
    return f'<svg viewBox="0 0 {at.width} {at.height}" role="img" aria-label="{escape(title)}">'


def _level(at: Frame, share: float, label: str) -> str:
    y = at.y(share)
    return (f'<line class="grid" x1="{at.left}" x2="{at.width - at.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="axis" x="{at.left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')


def _under(at: Frame, share: float, label: str) -> str:
    return f'<text class="axis" x="{at.x(share):.1f}" y="{at.height - 12}" text-anchor="middle">{label}</text>'


def _upright(at: Frame, x: float, label: str, *, row: int) -> str:
    flip = x > at.width * 0.75
    return (f'<line class="generation" x1="{x:.1f}" x2="{x:.1f}" y1="{at.top}" y2="{at.y(0):.1f}"/>'
            f'<text class="axis strong" x="{x + (-6 if flip else 6):.1f}" y="{at.top + 11 + 15 * row}" '
            f'text-anchor="{"end" if flip else "start"}">{escape(label)}</text>')


def _ticks(right: int, n_ticks: int) -> list[int]:
    """At most ``n_ticks`` or so round numbers from 0 to ``right``."""
    step = 1
    while right / step > n_ticks:
        step = step * 2 if str(step)[0] in "15" else step // 2 * 5
    return list(range(0, right + 1, step))
