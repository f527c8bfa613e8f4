"""The report's pictures as SVG that stands in a page, in the page's own colours; the same bytes every time.

Axes: E epochs, S items shown.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pipelines.evaluation.slices import SYSTEMS, Slicing

INK, MODEL, OTHER, QUIET = "#010101", "#010102", "#010103", "#010104"  # stand for what the page says
OF_THE_PAGE = {INK: "currentColor", MODEL: "var(--model)", OTHER: "var(--other)", QUIET: "var(--quiet)"}
OF_SYSTEM = dict(zip(SYSTEMS, (MODEL, OTHER), strict=True))
OF_VALUES = (  # of an attribute; read on white and on black
    *("#3b82d6", "#f08c2e", "#35a853", "#dd4b4b", "#9a6fd0"),
    *("#a0704f", "#e377c2", "#17a2b8", "#a8a820"),
)
OTHER_VALUES = "#888888"
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": QUIET,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "savefig.transparent": True,
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
WIDTH, HEIGHT = 4.8, 2.9  # inches: legible at the width of a telephone
SIDE = 6.0  # of the map
OUTLYING = 0.002  # share of the items beyond each edge of the map
DPI = 110  # of what is drawn as points: the map


class Drawing(NamedTuple):
    """A picture: its title, the same in words for those who do not see it, and its SVG."""

    title: str
    words: str
    svg: str


class Lead(NamedTuple):
    """A row of the forest plot: a difference with its interval, of such confidence.

    bound: what `least`, the one-sided end of the same confidence, must not fall below.
    """

    name: str
    value: float
    low: float
    high: float
    bound: float | None = None
    least: float | None = None
    confidence: float = 0.95

    @property
    def percent(self) -> str:
        return f"{100 * self.confidence:.4g} %"


def drawn(
    name: str,
    title: str,
    words: str,
    draw: Callable[[Axes], None],
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> Drawing:
    """`draw` on axes of `size` inches; the name keeps its ids apart from other pictures'."""
    with style.context(["default", STYLE, {"svg.hashsalt": name}]):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", dpi=DPI, metadata=nothing)
    text = file.getvalue()
    (box,) = re.findall(r'viewBox="([^"]+)"', text)
    inner = text.partition("</defs>")[2]  # after its style sheet, which is for the whole page
    inner = re.sub(r' id="[\w.]+_\d+"', "", inner)  # which every picture has, and nothing refers to
    for stand_in, colour in OF_THE_PAGE.items():
        inner = inner.replace(stand_in, colour)
    return Drawing(title, words, f'viewBox="{box}">{inner}')


def forest(leads: Sequence[Lead], metric: str) -> Drawing:
    """Differences with their intervals, and no difference as a line."""

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=INK, linewidth=1)
        for row, lead in enumerate(leads):
            axes.plot([lead.low, lead.high], [row, row], color=MODEL, linewidth=2)
            axes.plot(lead.value, row, marker="o", color=MODEL)
            if lead.bound is not None:
                axes.plot([lead.bound] * 2, [row - 0.3, row + 0.3], color=OTHER, linestyle="--")
            if lead.least is not None:
                axes.plot(lead.least, row, marker="|", markersize=11, markeredgewidth=2, color=MODEL)
        axes.set_yticks(range(len(leads)), [f"run − {lead.name}" for lead in leads])
        axes.set_ylim(len(leads) - 0.5, -0.5)
        axes.set_xlabel(f"{metric}, difference user by user")
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=6)

    words = "; ".join(
        f"minus {lead.name} {lead.value:+.4f} [{lead.low:+.4f}, {lead.high:+.4f}], {lead.percent}"
        + ("" if lead.least is None else f", at least {lead.least:+.4f}")
        for lead in leads
    )
    title = "The run's lead, with its intervals: " + ", ".join(
        f"{percent} ({', '.join(lead.name for lead in leads if lead.percent == percent)})"
        for percent in dict.fromkeys(lead.percent for lead in leads)
    )
    if any(lead.least is not None for lead in leads):
        title += "; tick: the one-sided least, dashed: what may be lost"
    return drawn("forest", title, words, draw, (WIDTH, 0.9 + 0.38 * len(leads)))


def slices(name: str, slicing: Slicing) -> Drawing:
    """Model beside popularity in each slice, with intervals."""

    def draw(axes: Axes) -> None:
        for shift, system in zip((-0.12, 0.12), SYSTEMS, strict=True):
            for row, part in enumerate(slicing.slices):
                one = getattr(part, system)
                low, high = one.interval or (one.value, one.value)
                axes.plot([low, high], [row + shift] * 2, color=OF_SYSTEM[system], linewidth=2)
                label = system if row == 0 else None
                axes.plot(one.value, row + shift, "o", color=OF_SYSTEM[system], markersize=4, label=label)
        axes.set_yticks(range(len(slicing.slices)), [part.name for part in slicing.slices])
        axes.set_ylim(len(slicing.slices) - 0.5, -0.5)
        axes.set_xlabel(slicing.metric)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    words = "; ".join(
        f"{part.name}: {part.model.value:.4f} against {part.popularity.value:.4f}" for part in slicing.slices
    )
    return drawn(name, slicing.title, words, draw, (WIDTH, 1.1 + 0.3 * len(slicing.slices)))


def lines(
    name: str, title: str, history: pl.DataFrame, columns: dict[str, str], mark: int | None = None
) -> Drawing:
    """Columns by epoch, each under a name; `mark`: the epoch that was kept."""
    colours = (MODEL, OTHER, OF_VALUES[4])

    def draw(axes: Axes) -> None:
        for colour, (label, column) in zip(colours, columns.items(), strict=False):
            axes.plot(history["epoch"], history[column], marker="o", markersize=4, color=colour, label=label)
        if mark is not None:
            axes.axvline(mark, color=INK, linestyle=":", label=f"kept: epoch {mark}")
        _by_epoch(axes)
        if len(columns) + (mark is not None) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)

    last = history.row(-1, named=True)
    words = "in the last epoch: " + ", ".join(
        f"{label} {last[column]:.4g}" for label, column in columns.items()
    )
    return drawn(name, title, words, draw)


def bands(history: pl.DataFrame) -> Drawing:
    """Distances of known and of other pairs by epoch: the median, and 10 % to 90 %."""
    pairs = {"positive": MODEL, "negative": OTHER}

    def draw(axes: Axes) -> None:
        for kind, colour in pairs.items():
            low, median, high = (history[f"health.{kind}_{end}"] for end in ("low", "median", "high"))
            axes.fill_between(history["epoch"], low, high, color=colour, alpha=0.25, linewidth=0)
            axes.plot(history["epoch"], median, marker="o", markersize=4, color=colour, label=f"{kind} pairs")
        _by_epoch(axes)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    last = history.row(-1, named=True)
    words = "medians in the last epoch: " + ", ".join(
        f"{kind} {last[f'health.{kind}_median']:.3f}" for kind in pairs
    )
    return drawn("bands", "Distances while learning: median, 10 % to 90 %", words, draw)


def distances(measured: dict[str, Any]) -> Drawing:
    """Histograms of held-out and of random pairs, each of area 1."""
    edges = np.array(measured["edges"])
    groups = {name: np.array(counts) for name, counts in measured["groups"].items() if sum(counts)}

    def draw(axes: Axes) -> None:
        for (name, counts), colour in zip(groups.items(), (MODEL, OTHER), strict=False):
            density = counts / (counts.sum() * np.diff(edges))
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.3)
            axes.stairs(density, edges, color=colour, label=f"{name} ({counts.sum():,} pairs)")
        axes.set(xlabel="Euclidean distance of user and item", ylabel="density")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    middles = (edges[1:] + edges[:-1]) / 2
    means = ", ".join(f"{name} {np.average(middles, weights=n):.3f}" for name, n in groups.items())
    return drawn("distances", "Distances of held-out and of random pairs", f"on average: {means}", draw)


def value_colours(points: pl.DataFrame) -> dict[str, str]:
    """A colour for each value of the map, the most frequent first, 'other' last."""
    counts = points.group_by("value").len().sort(pl.col("len"), pl.col("value"), descending=[True, False])
    named = [value for value in counts["value"] if value != "other"]
    colours = dict(zip(named, OF_VALUES, strict=False))
    return colours | ({"other": OTHER_VALUES} if len(colours) < len(counts) else {})


def item_map(points: pl.DataFrame) -> Drawing:
    """Items on their first two principal axes, alike in scale; the farthest at the edge of the picture.

    Drawn as points of a PNG, as thousands of shapes would be slow.
    """
    colours = value_colours(points)
    places = points.select("x", "y").to_numpy()  # (S, 2)
    low, high = np.quantile(places, (OUTLYING, 1 - OUTLYING), axis=0)  # (2,), (2,)
    inside = ((places >= low) & (places <= high)).all(1)
    shape = float(np.clip((high[1] - low[1]) / max(high[0] - low[0], 1e-9), 0.5, 1))

    def draw(axes: Axes) -> None:
        shades = [colours[value] for value in points["value"]]
        shown = np.clip(places, low, high)[::-1]  # the most popular on top
        axes.scatter(shown[:, 0], shown[:, 1], s=7, c=shades[::-1], alpha=0.8, linewidths=0, rasterized=True)
        axes.set(xlabel="first principal axis", ylabel="second", xticks=[], yticks=[])
        axes.set_aspect("equal", "datalim")

    words = f"{len(points):,} items in {len(colours)} colours, {int((~inside).sum()):,} of them at the edge"
    return drawn("map", f"The {len(points):,} most popular items", words, draw, (SIDE, SIDE * shape + 0.2))


def search(measured: dict[str, Any]) -> Drawing:
    """Share of the exact top found against milliseconds; what is served is ringed."""
    curve, colours = measured["curve"], (INK, MODEL, OTHER, *OF_VALUES[2:])
    kinds = list(dict.fromkeys(point["trees"] for point in curve))

    def draw(axes: Axes) -> None:
        for number, trees in enumerate(kinds):
            points = [point for point in curve if point["trees"] == trees]
            at = [point["p50_ms"] for point in points], [point["recall"] for point in points]
            label = "scan" if trees is None else f"{trees} trees"
            axes.plot(*at, marker="o", markersize=4, color=colours[number % len(colours)], label=label)
        for point in curve:
            if [point["trees"], point["search_k"]] == measured["chosen"]:
                ring: dict[str, Any] = {"markersize": 12, "markerfacecolor": "none", "color": INK}
                axes.plot(point["p50_ms"], point["recall"], marker="o", **ring)
        axes.axhline(measured["target"], color=INK, linestyle=":", linewidth=1)
        axes.set(
            xlabel="milliseconds, median", ylabel=f"recall@{measured['k']} of the exact top", xscale="log"
        )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)

    words = "; ".join(f"{p['trees'] or 'scan'}: {p['recall']:.3f} at {p['p50_ms']:.3f} ms" for p in curve)
    return drawn("search", "Recall and latency of the ways to search", words, draw)


def _by_epoch(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)
