"""Plots of results, readable on light and dark pages alike: a white ground of their own, and no date inside."""

import statistics
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure as Plot

from benchmarks.harness.results import OURS, Figure, Result, number

matplotlib.rcParams.update({"svg.hashsalt": "ratchet", "svg.fonttype": "none", "font.size": 10,
                            "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False})
OUR_COLOUR, PEER_COLOUR = "#0b6e4f", "#9aa5b1"


def bars(result: Result, figure: Figure, title: str = "") -> Plot:
    """Draw the medians of a figure as bars, with least and greatest as whiskers; ours stand out."""
    names = [name for name in result.samples if result.values(name, figure.name)]
    medians = [statistics.median(result.values(name, figure.name)) for name in names]
    below = [middle - min(result.values(name, figure.name)) for name, middle in zip(names, medians, strict=True)]
    above = [max(result.values(name, figure.name)) - middle for name, middle in zip(names, medians, strict=True)]
    plot = Plot(figsize=(7.2, 0.9 + 0.42 * len(names)), layout="constrained")
    axes = plot.subplots()
    axes.barh(names, medians, xerr=[below, above], height=0.62, error_kw={"lw": 1, "ecolor": "#333"},
              color=[OUR_COLOUR if name.startswith(OURS) else PEER_COLOUR for name in names])
    for place, middle in enumerate(medians):
        axes.annotate(number(middle), (0, place), xytext=(4, 0), textcoords="offset points", va="center",
                      color="white" if middle > max(medians) * 0.12 else "black", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(f"{figure.unit} ({figure.better} is better)")
    axes.set_title(title or figure.title, loc="left", fontsize=11)
    return plot


def save(plot: Plot, path: Path) -> None:
    """Write a plot as SVG; the same data give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plot.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
