"""Plots: figures without pyplot's global state, as PNG files and as SVG that takes the page's colours."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import cycle
from typing import Any, Literal

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from aligner.report import wording
from aligner.report.curves import Point, Stage
from aligner.report.samples import RATIO_BINS
from aligner.report.shift import Shift

SIZE = (5.2, 3.3)  # inches; small, so that the labels can still be read when the page is as wide as a phone
SOURCES_DRAWN = 5
_LABEL = 28
_BINS = 24
_FONT = "DejaVu Sans"  # comes with matplotlib

# The light page's colours. In SVG each becomes var(--plot-NAME), which the style sheet defines for light and dark.
_COLORS = {
    "ink": "#1f2328",
    "muted": "#59636f",
    "grid": "#d8dee5",
    "train": "#1f6feb",
    "held": "#bc4c00",
    "a": "#1a7f37",
    "b": "#8250df",
    "c": "#9a6700",
    "d": "#bf3989",
    "e": "#0e7c86",
}
_DOTS = re.compile(r'<g clip-path="[^"]*">\s*(?:<use [^>]*/>\s*){20,}</g>')
_NAMES = {color: name for name, color in _COLORS.items()}


def loss_figure(stages: Sequence[Stage]) -> Figure:
    """Loss over steps, one panel a stage: mean and range of the training loss, held-out points over it."""
    figure = Figure(figsize=(SIZE[0] * len(stages), SIZE[1]), layout=ConstrainedLayoutEngine(wspace=0.06))
    for i, stage in enumerate(stages):
        ax = figure.add_subplot(1, len(stages), i + 1)
        _draw_stage(ax, stage)
    FigureCanvasAgg(figure)
    return figure


def drawn_sources(stage: Stage) -> list[str]:
    """The held-out curves that have a place in the plot: the union, then the first few sources."""
    known = [s for s, c in stage.held_out.items() if c.points()]
    return [s for s in known if s == "all"] + [s for s in known if s != "all"][:SOURCES_DRAWN]


def edits_figure(ratios: Sequence[int], reference_ratios: Sequence[int]) -> Figure:
    """How much of the answers the corrector changed, and the references with it where there are any.

    Both hold counts per `samples.ratio_bin`.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    ax = figure.add_subplot()
    width = 1 / (RATIO_BINS - 1)
    centres = [(i - 0.5) * width for i in range(RATIO_BINS)]
    shares = [100 * r / sum(ratios) for r in ratios]
    ax.bar(centres, shares, width * 0.9, color=_COLORS["train"], alpha=0.75, label="corrections")
    if any(reference_ratios):
        shares = [100 * r / sum(reference_ratios) for r in reference_ratios]
        edges = [(i - 1) * width for i in range(RATIO_BINS + 1)]
        ax.stairs(shares, edges, color=_COLORS["held"], linewidth=1.6, label="references")
        _legend(ax)
    ax.set_xticks([-width / 2, 0.25, 0.5, 0.75, 1.0], ["un-\nchanged", "0.25", "0.5", "0.75", "1"])
    _frame(ax, "edit ratio: share of words changed", "share of samples (%)")
    FigureCanvasAgg(figure)
    return figure


def shift_figure(shift: Shift) -> Figure:
    """Scores of answers and of their corrections on two dimensions: points, means with an arrow, and marginals; on one,
    how they are spread, with lines at the means."""
    if shift.y is None:
        return _spread_figure(shift)
    # Fixed margins: laying out dozens of these by constraints would take most of the time of a report.
    figure = Figure(figsize=(4.4, 4.4))
    grid = figure.add_gridspec(
        2, 2, width_ratios=(4, 1), height_ratios=(1, 4), left=0.14, right=0.97, bottom=0.12, top=0.87,
        wspace=0.06, hspace=0.06,
    )  # fmt: skip
    ax = figure.add_subplot(grid[1, 0])
    sides = (("answers", "train", "o", shift.before, shift.mean_before),
             ("corrections", "held", "x", shift.after, shift.mean_after))  # fmt: skip
    for label, color, marker, points, mean in sides:
        look: dict[str, Any] = {"color": _COLORS[color], "marker": marker, "linestyle": "none"}
        edge = _COLORS["ink"] if marker == "o" else _COLORS[color]
        ax.plot(*_axes_of(points), **look, ms=3.2, mew=0.7 if marker == "x" else 0, alpha=0.4, zorder=2)
        ax.plot(*_axes_of([mean]), **look, ms=11, mew=1.2 if marker == "o" else 3.5, mec=edge, zorder=5, label=label)
    if shift.mean_before != shift.mean_after:
        arrow = {"arrowstyle": "-|>", "color": _COLORS["ink"], "lw": 1.6, "shrinkA": 6, "shrinkB": 6}
        ax.annotate("", xy=shift.mean_after, xytext=shift.mean_before, arrowprops=arrow, zorder=6)
    _frame(ax, _label(shift.x), _label(shift.y))
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_parse_math(False)
        axis.set_major_locator(MaxNLocator(nbins=6, integer=shift.whole))
    _marginal(figure.add_subplot(grid[0, 0], sharex=ax), shift, 0)
    _marginal(figure.add_subplot(grid[1, 1], sharey=ax), shift, 1)
    figure.legend(
        loc="upper left", bbox_to_anchor=(0.0, 0.955), ncols=2, fontsize=9, frameon=False, markerscale=0.7,
        labelcolor=_COLORS["ink"],
    )  # fmt: skip
    figure.text(0.02, 0.97, _label(shift.name, 48), fontsize=10, color=_COLORS["ink"], va="center", parse_math=False)
    FigureCanvasAgg(figure)
    return figure


def _spread_figure(shift: Shift) -> Figure:
    figure = Figure(figsize=(4.4, 3.0))
    ax = figure.add_axes((0.14, 0.17, 0.83, 0.63))
    _spread(ax, shift, 0)
    for label, color, mean in (("answers", "train", shift.mean_before), ("corrections", "held", shift.mean_after)):
        ax.axvline(mean[0], color=_COLORS[color], linewidth=1.6, linestyle=(0, (4, 2)) if color == "train" else "-",
                   label=label)  # fmt: skip
    _frame(ax, _label(shift.x), "share of answers")
    ax.xaxis.label.set_parse_math(False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=shift.whole))
    figure.legend(
        loc="upper left", bbox_to_anchor=(0.0, 0.95), ncols=2, fontsize=9, frameon=False, labelcolor=_COLORS["ink"]
    )
    figure.text(0.02, 0.95, _label(shift.name, 48), fontsize=10, color=_COLORS["ink"], va="center", parse_math=False)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure on white, 150 dots per inch, the same bytes for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def to_svg(figure: Figure, name: str, title: str) -> Markup:
    """The figure as an <svg> element for an HTML page; `name` keeps the ids of several in one page apart."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.sans-serif": [_FONT]}):
        figure.savefig(out, format="svg", facecolor="none", metadata=nothing)
    root = re.search(r'<svg\b[^>]*\bviewBox="([^"]+)"[^>]*>', drawn := out.getvalue())
    if root is None:
        raise AssertionError("matplotlib wrote an SVG without a viewBox")
    body = drawn[root.end() :]
    body = re.sub(r"<style\b.*?</style>", "", body, count=1, flags=re.DOTALL)  # it would restyle the whole page
    body = re.sub(r'<g id="[^"]*_\d+"/>', "", body)
    body = re.sub(r'<g id="[^"]*_\d+">', "<g>", body)  # the same in every figure, so not fit for ids of one page
    body = _DOTS.sub(_compact, body)
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(stroke|fill): (#[0-9a-f]{6})", _page_color, tag[0]), body)
    return Markup(f'<svg role="img" aria-label="{escape(title)}" viewBox="{root[1]}">{body.strip()}')


def _compact(found: re.Match[str]) -> str:
    """Many dots of one look, which matplotlib writes out for each of them, with the look said once."""
    style = re.search(r' style="([^"]*)"', found[0])
    dots = re.sub(r' style="[^"]*"', "", found[0])
    dots = re.sub(r' (x|y)="([^"]*)"', lambda place: f' {place[1]}="{float(place[2]):.1f}"', dots)
    return dots.replace("<g ", f'<g style="{style[1]}" ', 1) if style else dots


def _page_color(found: re.Match[str]) -> str:
    name = _NAMES.get(found[2])
    return f"{found[1]}: var(--plot-{name})" if name else found[0]


def _draw_stage(ax: Axes, stage: Stage) -> None:
    train = stage.train.points()
    steps = [p.step for p in train]
    if any(p.n > 1 for p in train):
        low, high = [p.low for p in train], [p.high for p in train]
        ax.fill_between(steps, low, high, color=_COLORS["train"], alpha=0.2, linewidth=0, label="training, range")
    if train:
        marker = "o" if len(train) == 1 else ""
        ax.plot(steps, [p.mean for p in train], color=_COLORS["train"], lw=1.2, marker=marker, ms=4, label="training")
    colors = cycle("abcde")
    for source in drawn_sources(stage):
        points = stage.held_out[source].points()
        union = source == "all"
        ax.plot(
            [p.step for p in points],
            [p.mean for p in points],
            color=_COLORS["held" if union else next(colors)],
            lw=1.6 if union else 1.0, ls="-" if union else "--",
            marker="o" if union else ".", ms=4, zorder=4 if union else 3,
            label="held out" if union else _label(source),
        )  # fmt: skip
    if _wants_log([*train, *(p for s in drawn_sources(stage) for p in stage.held_out[s].points())]):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    _frame(ax, "step", "loss (nats a token)")
    ax.set_title(_label(stage.name), loc="left", fontsize=10, color=_COLORS["ink"], parse_math=False)
    if ax.get_legend_handles_labels()[0]:
        _legend(ax)


def _axes_of(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _spread(ax: Axes, shift: Shift, axis: int) -> None:
    """How one dimension's scores are spread, before as a filled shape and after as a line, so that both can be seen."""
    sides = [[point[axis] for point in points] for points in (shift.before, shift.after)]
    edges = _edges([value for side in sides for value in side], shift.whole)
    flat: Literal["horizontal", "vertical"] = "horizontal" if axis else "vertical"
    for values, color, filled in zip(sides, ("train", "held"), (True, False), strict=True):
        counts = [0] * (len(edges) - 1)
        for value in values:
            counts[min(max(bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
        shares = [count / len(values) for count in counts]
        look: dict[str, Any] = {"alpha": 0.35, "linewidth": 0} if filled else {"linewidth": 1.6}
        ax.stairs(shares, edges, orientation=flat, fill=filled, color=_COLORS[color], **look)
    (ax.set_xlim if axis else ax.set_ylim)(0, None)


def _marginal(ax: Axes, shift: Shift, axis: int) -> None:
    """The spread of one dimension at the edge of a plot."""
    _spread(ax, shift, axis)
    ax.set_facecolor("none")
    ax.tick_params(which="both", left=False, bottom=False, labelleft=False, labelbottom=False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _edges(values: Sequence[float], whole: bool) -> list[float]:
    """Bins over all values: one for each whole number while there are few, else equal ones."""
    low, high = min(values), max(values)
    if whole and high - low <= _BINS:
        return [i - 0.5 for i in range(round(low), round(high) + 2)]
    if low == high:
        low, high = low - 0.5, high + 0.5
    return [low + (high - low) * i / _BINS for i in range(_BINS + 1)]


def _wants_log(points: Sequence[Point]) -> bool:
    low, high = min((p.low for p in points), default=0.0), max((p.high for p in points), default=0.0)
    return low > 0 and high / low > 20


def _frame(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, color=_COLORS["muted"], fontsize=9)
    ax.set_ylabel(y, color=_COLORS["muted"], fontsize=9)
    ax.set_facecolor("none")
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis="y", color=_COLORS["grid"], linewidth=0.8)
    ax.tick_params(which="both", color=_COLORS["grid"], labelcolor=_COLORS["muted"], labelsize=9)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_COLORS["grid"])


def _legend(ax: Axes) -> None:
    legend = ax.legend(fontsize=9, frameon=False, labelcolor=_COLORS["ink"], loc="best")
    for label in legend.get_texts():
        label.set_parse_math(False)


def _label(name: str, length: int = _LABEL) -> str:
    """A name from a file as one short line that the font can draw; what it cannot becomes "?"."""
    line = wording.name(name)
    line = line if len(line) <= length else line[: length - 1] + "…"
    # A leading underscore hides a line from matplotlib's legend.
    return "".join(c if _drawable(c) else "?" for c in line).lstrip("_") or "(no name)"


@cache
def _drawable(character: str) -> bool:
    font = font_manager.get_font(font_manager.findfont(_FONT))
    return bool(font.get_char_index(ord(character)))
