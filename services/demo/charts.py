"""Plots as inline SVG: no library, no script, and colours that follow the page's light or dark scheme."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 920, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 18, 40


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
    right = max(n_messages, 1)
    parts = [_open(f"Accuracy over {n_messages} messages")]
    for percent in range(0, 101, 20):
        y = _y(percent / 100)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}%</text>')
    for tick in _ticks(right):
        parts.append(f'<text class="axis" x="{_x(tick, right):.1f}" y="{HEIGHT - 10}" text-anchor="middle">'
                     f"{tick:,}</text>")
    rug = "".join(f"M{_x(mark.x, right):.1f} {HEIGHT - _BOTTOM + 4}v7" for mark in marks)
    if rug:
        parts.append(f'<path class="rug" d="{rug}"><title>a version began to answer</title></path>')
    for mark in marks:
        if mark.label:
            x = _x(mark.x, right)
            parts.append(f'<line class="generation" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
                         f'<text class="axis" x="{x + 4:.1f}" y="{_TOP + 10}">{escape(mark.label)}</text>')
    for line in lines:
        if line.points:
            path = "L".join(f"{_x(x, right):.1f} {_y(y):.1f}" for x, y in line.points)
            parts.append(f'<path class="line {line.css}" d="M{path}"><title>{escape(line.name)}</title></path>')
            x, y = line.points[-1]
            parts.append(f'<circle class="dot {line.css}" cx="{_x(x, right):.1f}" cy="{_y(y):.1f}" r="3.5"/>')
    return "".join([*parts, "</svg>"])


def bars(counts: Sequence[int], edges: Sequence[float], title: str, marks: Sequence[tuple[str, float]]) -> str:
    """A histogram over seconds, with named values marked.

    Args:
        counts: One for each bin.
        edges: One more than bins, in seconds, evenly spaced.
        marks: (name, value in seconds) drawn as lines.
    """
    top = max(counts, default=0) or 1
    low, high = edges[0], edges[-1]
    span = (WIDTH - _LEFT - _RIGHT) / len(counts)
    parts = [_open(title)]
    for part in range(5):
        value = top * part / 4
        y = _y(part / 4)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                     f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,.0f}</text>')
    for place, count in enumerate(counts):
        height = (HEIGHT - _TOP - _BOTTOM) * count / top
        if count:
            parts.append(f'<rect class="bar" x="{_LEFT + place * span + 1:.1f}" y="{HEIGHT - _BOTTOM - height:.1f}" '
                         f'width="{max(span - 2, 1):.1f}" height="{height:.1f}" rx="1.5">'
                         f"<title>{edges[place]:.2f} to {edges[place + 1]:.2f} s: {count:,}</title></rect>")
    step = max(1, len(counts) // 8)
    for place in range(0, len(edges), step):
        parts.append(f'<text class="axis" x="{_LEFT + place * span:.1f}" y="{HEIGHT - 14}" text-anchor="middle">'
                     f"{edges[place]:g} s</text>")
    for row, (name, value) in enumerate(marks):
        x = _LEFT + (min(value, high) - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)
        flip = x > WIDTH * 0.8
        parts.append(f'<line class="generation" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
                     f'<text class="axis strong" x="{x + (-6 if flip else 6):.1f}" y="{_TOP + 12 + 16 * row}" '
                     f'text-anchor="{"end" if flip else "start"}">{escape(name)} {value:.2f} s</text>')
    return "".join([*parts, "</svg>"])


def _open(title: str) -> str:
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
            f'preserveAspectRatio="xMidYMid meet">')


def _x(value: float, right: float) -> float:
    return _LEFT + value / right * (WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def _ticks(right: int) -> list[int]:
    """About five round numbers from 0 to ``right``."""
    step = 1
    while right / step > 6:
        step = step * 2 if str(step)[0] in "15" else step // 2 * 5
    return list(range(0, right + 1, step))
