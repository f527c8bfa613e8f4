"""The pictures of a run: learning curves, distances of pairs, results with intervals."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipelines.config import files


def curves(history_path: Path, path: Path, select: str) -> None:
    """Loss and validation by epoch, from history.parquet."""
    history = files.read_table(history_path)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(history["epoch"], history["loss"], marker="o")
    left.set(title="Training loss", xlabel="epoch", ylabel="loss per interaction")
    right.plot(history["epoch"], history[f"validation.{select}"], marker="o", color="tab:green")
    best = history.sort(f"validation.{select}", descending=True, maintain_order=True).row(0, named=True)
    right.axvline(best["epoch"], color="grey", linestyle=":", label=f"kept: epoch {best['epoch']}")
    right.set(title="Validation", xlabel="epoch", ylabel=select)
    right.legend()
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)


def distances(measured: dict[str, Any], path: Path) -> None:
    """Held-out and random pairs by distance, from what evidence.distances counted."""
    edges = np.array(measured["edges"])
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for label, counts in measured["groups"].items():
        n = sum(counts)
        if n:  # users of a tiny catalogue may know all of it
            density = np.array(counts) / (n * np.diff(edges))
            axes.stairs(density, edges, fill=True, alpha=0.6, label=f"{label} ({n:,} pairs)")
    axes.set(
        title="Distance between user and item, test window", xlabel="Euclidean distance", ylabel="density"
    )
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)


def quality(points: list[dict[str, Any]], fitted: float, select: str, path: Path) -> None:
    """Validation against seconds, a line for each training; grey where the fit of what is tested ended."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    tab = ["blue", "orange", "green", "red", "purple", "brown", "pink", "gray", "olive", "cyan"]
    axes.set_prop_cycle(color=[*(f"tab:{name}" for name in tab), "black", "gold", "navy", "tan"])
    for kind in dict.fromkeys(point["of"] for point in points):  # in order of appearance
        of_kind = [point for point in points if point["of"] == kind]
        seconds, score = [p["seconds"] for p in of_kind], [p[select] for p in of_kind]
        axes.plot(seconds, score, marker="o", linestyle="-" if " start" in kind else "", label=kind)
    axes.axvline(fitted, color="grey", linestyle=":", label=f"end of the fit: {fitted:.0f} s")
    axes.set(title="Quality against seconds", xlabel="seconds since the start", ylabel=f"validation {select}")
    axes.set_xlim(left=0)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)


def search(measured: dict[str, Any], chosen: tuple[int | None, int | None], path: Path) -> None:
    """Recall against milliseconds of each index tried, and of the scan; what was chosen is ringed."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes, curve = figure.subplots(), measured["curve"]
    for trees in dict.fromkeys(point["trees"] for point in curve):
        points = [point for point in curve if point["trees"] == trees]
        at = [point["p50_ms"] for point in points], [point["recall"] for point in points]
        axes.plot(*at, marker="o", label="scan" if trees is None else f"{trees} trees")
        for point in points:
            if (point["trees"], point["search_k"]) == chosen:
                ring: dict[str, Any] = {
                    "markersize": 14,
                    "markerfacecolor": "none",
                    "markeredgecolor": "black",
                }
                axes.plot(point["p50_ms"], point["recall"], marker="o", linestyle="", **ring)
    axes.axhline(measured["target"], color="grey", linestyle=":", label=f"target {measured['target']:g}")
    title = f"Recall@{measured['k']} of {measured['users']} held-out users; ringed: served"
    axes.set(title=title, xlabel="milliseconds, median", ylabel="share of the exact top", xscale="log")
    axes.legend()
    figure.savefig(path, dpi=120)


def results(result: dict[str, Any], path: Path) -> None:
    """Each system's metrics with their 95 % intervals."""
    systems = list(result["test"])
    names = [
        name for name in result["intervals"]["model"] if name.split("@")[0] in ("hit_rate", "recall", "ndcg")
    ]
    figure = Figure(figsize=(2.6 * len(names), 3.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        means = np.array([result["test"][system][name] for system in systems])
        low, high = np.array([result["intervals"][system][name] for system in systems]).T
        colors = ["tab:blue", "tab:cyan", "tab:green", "tab:orange", "tab:grey"]
        axes.bar(systems, means, yerr=[means - low, high - means], capsize=3, color=colors[: len(systems)])
        axes.set_title(name)
        axes.tick_params(axis="x", rotation=60)
    figure.suptitle(f"Test window, {result['users']:,} users, 95 % bootstrap intervals")
    figure.savefig(path, dpi=120)
