"""Figures as SVG: the same text is a file in the run's folder and stands in the page; same data, same bytes.

They are drawn in dark colours for a white background; a dark page inverts them.
Axes: E epochs, S items shown.
"""
# Long: a function a figure.

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from pipelines.evaluation.slices import SYSTEMS, Slicing
from recsys.files import write_text

INK, MODEL, OTHER, GRID = "#1c1e21", "#1668b8", "#c2410c", "#c9cdd3"
COLOURS = (MODEL, OTHER, "#2b8a3e", "#8250c4", "#a06a00", "#0e7c86", "#c2418c", "#6b7280", "#7c4a2d")
VALUE_COLOURS = (  # of an attribute's values on the map
    *("#3b82d6", "#f08c2e", "#35a853", "#dd4b4b", "#9a6fd0"),
    *("#a0704f", "#e377c2", "#17a2b8", "#a8a820"),
)
OTHER_VALUES = "#888888"
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # "$" in a name is a dollar
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "savefig.transparent": True,
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
STYLED = style.context(["default", STYLE])  # decorates each function that draws
WIDTH, HEIGHT = 4.8, 2.9  # inches: legible at the width of a telephone
MAP_SIDE = 6.0  # inches
OUTLIERS = 0.002  # share of the items beyond each edge of the map
DPI = 110  # of the map's points, which are pixels
SHOWN_METRICS = ("hit_rate", "recall", "ndcg")


class Drawing(NamedTuple):
    """A figure: its name, its title and its SVG element, which holds a description for screen readers."""

    name: str
    title: str
    svg: str

    def save(self, folder: Path) -> None:
        """Write NAME.svg into a folder. Raises OSError."""
        write_text(folder / f"{self.name}.svg", self.svg)


class Lead(NamedTuple):
    """A row of the forest plot: a difference with its interval at this confidence.

    bound: the limit that `least`, the one-sided end of the interval, must not fall below.
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


def to_drawing(figure: Figure, name: str, title: str, description: str) -> Drawing:
    """The figure as SVG. The name makes ids that no other figure of the page has."""
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", dpi=DPI, metadata=no_metadata)
    svg = file.getvalue()
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg[svg.index("<svg ") :])  # unused, and the same in every figure
    label = html.escape(f"{title}: {description}")
    return Drawing(name, title, svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


@STYLED
def forest(leads: Sequence[Lead], metric: str) -> Drawing:
    """Differences with their intervals, and a line at zero."""
    figure, axes = _axes(0.9 + 0.38 * len(leads))
    axes.axvline(0, color=INK, linewidth=1)
    for row, lead in enumerate(leads):
        axes.plot([lead.low, lead.high], [row, row], color=MODEL, linewidth=2)
        axes.plot(lead.value, row, marker="o", color=MODEL)
        if lead.bound is not None:
            axes.plot([lead.bound] * 2, [row - 0.3, row + 0.3], color=OTHER, linestyle="--")
        if lead.least is not None:
            axes.plot(lead.least, row, marker="|", markersize=11, markeredgewidth=2, color=MODEL)
    _label_rows(axes, [f"run − {lead.name}" for lead in leads])
    axes.set_xlabel(f"{metric}, difference user by user")
    axes.locator_params(axis="x", nbins=6)
    description = "; ".join(
        f"minus {lead.name} {lead.value:+.4f} [{lead.low:+.4f}, {lead.high:+.4f}], {lead.percent}"
        + ("" if lead.least is None else f", at least {lead.least:+.4f}")
        for lead in leads
    )
    title = "The run's lead, with its intervals: " + ", ".join(
        f"{percent} ({', '.join(lead.name for lead in leads if lead.percent == percent)})"
        for percent in dict.fromkeys(lead.percent for lead in leads)
    )
    if any(lead.least is not None for lead in leads):
        title += "; tick: the one-sided least, dashed: the loss that is allowed"
    return to_drawing(figure, "forest", title, description)


@STYLED
def shares_of_features(shares: dict[str, float]) -> Drawing:
    """Bars: how much of an item's place each kind of feature decides, the most first."""
    ordered = sorted(shares.items(), key=lambda pair: -pair[1])
    figure, axes = _axes(0.9 + 0.3 * len(ordered))
    axes.barh(range(len(ordered)), [share for _, share in ordered], color=MODEL)
    _label_rows(axes, [name for name, _ in ordered])
    axes.set_xlabel("share of the squared length of an item's place")
    description = ", ".join(f"{name} {share:.2f}" for name, share in ordered)
    return to_drawing(figure, "features", "What places a new item", description)


@STYLED
def results(metrics: dict[str, Any]) -> Drawing:
    """Means of the systems with their 95 % intervals: a row of panels for each cut-off."""
    systems = list(metrics["test"])
    names = [name for name in metrics["intervals"]["model"] if name.split("@")[0] in SHOWN_METRICS]
    cut_offs = list(dict.fromkeys(name.split("@")[1] for name in names))
    columns = max(sum(name.endswith(f"@{k}") for name in names) for k in cut_offs)
    figure = Figure(figsize=(WIDTH, len(cut_offs) * (0.6 + 0.2 * len(systems))), layout="constrained")
    panels = figure.subplots(len(cut_offs), columns, sharey=True, squeeze=False)
    for k, row_of_panels in zip(cut_offs, panels, strict=True):
        for axes, name in zip(row_of_panels, [n for n in names if n.endswith(f"@{k}")], strict=False):
            for row, system in enumerate(systems):
                colour = OTHER if system == "popularity" else MODEL
                axes.plot(metrics["intervals"][system][name], [row, row], color=colour, linewidth=2)
                axes.plot(metrics["test"][system][name], row, "o", color=colour, markersize=4)
            axes.set_title(name)
            axes.locator_params(axis="x", nbins=3)
            _label_rows(axes, systems)
    title = f"Test window, {metrics['users']:,} users: means with 95 % bootstrap intervals"
    description = "; ".join(
        f"{system}: " + ", ".join(f"{name} {metrics['test'][system][name]:.4f}" for name in names)
        for system in systems
    )
    return to_drawing(figure, "results", title, description)


@STYLED
def slices(name: str, slicing: Slicing) -> Drawing:
    """Model and popularity in each slice, with intervals."""
    figure, axes = _axes(1.1 + 0.3 * len(slicing.slices))
    for shift, system, colour in zip((-0.12, 0.12), SYSTEMS, (MODEL, OTHER), strict=True):
        for row, part in enumerate(slicing.slices):
            one = getattr(part, system)
            low, high = one.interval or (one.value, one.value)
            axes.plot([low, high], [row + shift] * 2, color=colour, linewidth=2)
            label = system if row == 0 else None
            axes.plot(one.value, row + shift, "o", color=colour, markersize=4, label=label)
    _label_rows(axes, [part.name for part in slicing.slices])
    axes.set_xlabel(slicing.metric)
    axes.set_xlim(left=0)
    _legend_above(axes)
    description = "; ".join(
        f"{part.name}: {part.model.value:.4f} against {part.popularity.value:.4f}" for part in slicing.slices
    )
    return to_drawing(figure, name, slicing.title, description)


@STYLED
def curves(history: pl.DataFrame, choice: dict[str, Any] | None, select: str) -> Drawing:
    """Loss and validation by epoch, a line a space; a ring: the epoch that was kept."""
    columns = {"training loss": "loss", f"validation {select}": f"validation.{select}"}
    columns = {label: column for label, column in columns.items() if column in history.columns}
    kept = {part["name"]: len(part["cycles"]) for part in choice["parts"]} if choice else {}
    figure = Figure(figsize=(WIDTH, 0.4 + 1.8 * len(columns)), layout="constrained")
    panels = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, column) in zip(panels, columns.items(), strict=True):
        for number, (space, rows) in enumerate(_spaces(history)):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(rows["epoch"], rows[column], marker="o", markersize=4, color=colour, label=space)
            best = rows.filter(pl.col("epoch") == kept.get(space, 0))
            axes.plot(best["epoch"], best[column], "o", markersize=9, markerfacecolor="none", color=colour)
        axes.set_ylabel(label)
    _legend_above(panels[0])
    _label_epochs(panels[-1])
    return to_drawing(
        figure, "curves", "Training loss per interaction, and validation", _last_epoch(history, columns)
    )


@STYLED
def lines(name: str, title: str, history: pl.DataFrame, columns: dict[str, str]) -> Drawing:
    """Columns of the first space by epoch, each under a label."""
    figure, axes = _axes()
    (_, history), *_ = _spaces(history)
    for colour, (label, column) in zip(COLOURS, columns.items(), strict=False):
        axes.plot(history["epoch"], history[column], marker="o", markersize=4, color=colour, label=label)
    _label_epochs(axes)
    if len(columns) > 1:
        _legend_above(axes)
    return to_drawing(figure, name, title, _last_epoch(history, columns))


@STYLED
def bands(history: pl.DataFrame) -> Drawing:
    """Distances of the first space's known and other pairs by epoch: the median, and 10 % to 90 %."""
    figure, axes = _axes()
    (_, history), *_ = _spaces(history)
    kinds = ("positive", "negative")
    for kind, colour in zip(kinds, COLOURS, strict=False):
        low, median, high = (history[f"health.{kind}_{end}"] for end in ("low", "median", "high"))
        axes.fill_between(history["epoch"], low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(history["epoch"], median, marker="o", markersize=4, color=colour, label=f"{kind} pairs")
    _label_epochs(axes)
    _legend_above(axes)
    description = _last_epoch(history, {f"median {kind}": f"health.{kind}_median" for kind in kinds})
    return to_drawing(figure, "bands", "Distances during training: median, 10 % to 90 %", description)


@STYLED
def distances(measured: dict[str, Any]) -> Drawing:
    """Histograms of held-out and of random pairs, each of area 1."""
    edges = np.array(measured["edges"])
    # users of a tiny catalogue may know all of it: no random pairs then
    groups = {name: np.array(counts) for name, counts in measured["groups"].items() if sum(counts)}
    figure, axes = _axes()
    for (name, counts), colour in zip(groups.items(), COLOURS, strict=False):
        density = counts / (counts.sum() * np.diff(edges))
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(density, edges, color=colour, label=f"{name} ({counts.sum():,} pairs)")
    axes.set(xlabel="Euclidean distance between user and item", ylabel="density")
    _legend_above(axes)
    middles = (edges[1:] + edges[:-1]) / 2
    means = ", ".join(f"{name} {np.average(middles, weights=n):.3f}" for name, n in groups.items())
    title = "Distances of held-out and of random pairs, test window"
    return to_drawing(figure, "distances", title, f"on average: {means}")


def value_colours(points: pl.DataFrame) -> dict[str, str]:
    """A colour for each value of the map, the most frequent first, 'other' last."""
    counts = points.group_by("value").len().sort(pl.col("len"), pl.col("value"), descending=[True, False])
    named = [value for value in counts["value"] if value != "other"]
    colours = dict(zip(named, VALUE_COLOURS, strict=False))
    return colours | ({"other": OTHER_VALUES} if len(colours) < len(counts) else {})


@STYLED
def item_map(points: pl.DataFrame) -> Drawing:
    """Items on their first two principal axes, on one scale; outliers at the edge.

    The points are an image, as thousands of shapes would be slow.
    """
    colours = value_colours(points)
    places = points.select("x", "y").to_numpy()  # (S, 2)
    low, high = np.quantile(places, (OUTLIERS, 1 - OUTLIERS), axis=0)  # (2,), (2,)
    inside = ((places >= low) & (places <= high)).all(1)
    aspect = float(np.clip((high[1] - low[1]) / max(high[0] - low[0], 1e-9), 0.5, 1))
    figure, axes = _axes(MAP_SIDE * aspect + 0.2, MAP_SIDE)
    shades = [colours[value] for value in points["value"]]
    shown = np.clip(places, low, high)[::-1]  # the most popular on top
    axes.scatter(shown[:, 0], shown[:, 1], s=7, c=shades[::-1], alpha=0.8, linewidths=0, rasterized=True)
    axes.set(xlabel="first principal axis", ylabel="second", xticks=[], yticks=[])
    axes.set_aspect("equal", "datalim")
    edge = int((~inside).sum())
    description = f"{len(points):,} items in {len(colours)} colours, {edge:,} of them at the edge"
    return to_drawing(figure, "map", f"The {len(points):,} most popular items", description)


@STYLED
def search(measured: dict[str, Any]) -> Drawing:
    """Share of the exact top K found against milliseconds; the served setting is ringed."""
    curve = measured["curve"]
    figure, axes = _axes()
    for number, trees in enumerate(dict.fromkeys(point["trees"] for point in curve)):
        points = [point for point in curve if point["trees"] == trees]
        at = [point["p50_ms"] for point in points], [point["recall"] for point in points]
        label, colour = "scan" if trees is None else f"{trees} trees", COLOURS[number % len(COLOURS)]
        axes.plot(*at, marker="o", markersize=4, color=colour, label=label)
    for point in curve:
        if [point["trees"], point["search_k"]] == list(measured["chosen"]):
            ring: dict[str, Any] = {"markersize": 12, "markerfacecolor": "none", "color": INK}
            axes.plot(point["p50_ms"], point["recall"], marker="o", **ring)
    axes.axhline(measured["target"], color=INK, linestyle=":", linewidth=1)
    axes.set(xlabel="milliseconds, median", ylabel=f"recall@{measured['k']} of the exact top", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    _legend_above(axes)
    description = "; ".join(
        f"{p['trees'] or 'scan'}: {p['recall']:.3f} at {p['p50_ms']:.3f} ms" for p in curve
    )
    title = f"Recall and latency of the index, {measured['users']:,} held-out users"
    return to_drawing(figure, "search", title, description)


@STYLED
def quality(name: str, points: list[dict[str, Any]], fitted: float, select: str) -> Drawing:
    """Validation against seconds, a line for each training; dotted: the end of the fit that is tested."""
    figure, axes = _axes(4.2, 9)
    for number, kind in enumerate(dict.fromkeys(point["of"] for point in points)):  # in order of appearance
        of_kind = [point for point in points if point["of"] == kind]
        seconds, score = [p["seconds"] for p in of_kind], [p[select] for p in of_kind]
        line = "" if kind in ("spectral", "trial", "model") else ("-", "--")[number // len(COLOURS) % 2]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(seconds, score, marker="o", linestyle=line, color=colour, label=kind)
    axes.axvline(fitted, color=INK, linestyle=":", label=f"end of the fit: {fitted:.0f} s")
    axes.set(title="Quality against seconds", xlabel="seconds since the start", ylabel=f"validation {select}")
    axes.set_xlim(left=0)
    figure.legend(loc="outside right upper", fontsize="small")
    best = max(points, key=lambda point: point[select])
    description = f"best {select} {best[select]:.4f} after {best['seconds']:.0f} s, {best['of']}"
    return to_drawing(figure, name, "Quality against seconds", description)


def _axes(height: float = HEIGHT, width: float = WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Horizontal rows from top to bottom, each with its name."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _label_epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)


def _spaces(history: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Each space's rows under its name, in the order of training."""
    names = history["space"].unique(maintain_order=True).to_list()
    return [(name, history.filter(pl.col("space") == name)) for name in names]


def _last_epoch(history: pl.DataFrame, columns: dict[str, str]) -> str:
    last = history.row(-1, named=True)
    return "in the last epoch: " + ", ".join(
        f"{label} {last[column]:.4g}" for label, column in columns.items()
    )
