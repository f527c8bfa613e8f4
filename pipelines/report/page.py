"""report.html: a run on one page, from the files of its folder alone; the same files make the same bytes.

It has no scripts and loads nothing: figures are SVG within the page.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from jinja2 import Environment, FileSystemLoader, Undefined

from pipelines.config import files
from pipelines.config.errors import InputError
from pipelines.config.loading import flatten
from pipelines.config.secrets import mask_secrets
from pipelines.evaluation import certificate
from pipelines.evaluation.evidence import read_examples
from pipelines.evaluation.slices import Estimate, Slicing, slicings
from pipelines.report import figures
from pipelines.report.figures import Drawing, Lead
from recsys.files import write_text

NAME, TEMPLATE = "report.html", "page.html.jinja"
JSON = ("metrics", "config", "choice", "gate", "contracts", "warm", "stages", "lineage", "distances", "train")
MINING_COLUMNS = {  # of history.parquet
    "pairs with a negative": "health.mined",
    "triplets with a loss above 0": "health.active",
    "mined negatives that are held-out positives": "health.false_negatives",
    "dimensions in use (effective rank)": "health.effective_rank",
    "spread of the vectors' lengths": "health.norm_spread",
    "loss of the hardest triplets": "health.hardest_hinge",
}


class SlicingFigure(NamedTuple):
    """One way to slice, with its figure; None for two slices or fewer."""

    slicing: Slicing
    drawing: Drawing | None


def write(run: Path) -> Path:
    """Write the page into the run's folder. Raises InputError on a full disk."""
    path = run / NAME
    try:
        write_text(path, render(run))
    except OSError as error:
        raise InputError(f"report '{path}' cannot be written: {error}") from None
    return path


def render(run: Path) -> str:
    """The whole page; it names the files that are missing in the folder."""
    read = {name: mask_secrets(files.read_json(run / f"{name}.json")) for name in JSON}
    metrics, history = read["metrics"], _frame(run / "history.parquet")
    if history is not None and "loss" not in history.columns:  # nothing was trained
        history = None
    points = _frame(run / "map.parquet")
    select = _select(metrics, read["config"])
    certified = metrics if metrics is not None and certificate.is_complete(metrics) else None
    new = certified.get("new_items") if certified else None
    new = new if new and "test" in new else None
    features = new["shares_of_features"] if new else None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": format_value, "estimate": format_estimate, "signed": format_difference}
    text: str = environment.get_template(TEMPLATE).render(
        read
        | {
            "headline": headline(read["gate"]),
            "select": select,
            "forest": forest(read["gate"], certified, select),
            "certified": certified is not None,
            "results": figures.results(certified) if certified else None,
            "result_tables": list(result_tables(certified)),
            "new_items": new,
            "new_items_tables": list(new_items_tables(new)),
            "features": figures.shares_of_features(features) if features else None,
            "slicings": list(slicing_figures(run, certified, select)),
            "curves": None if history is None else figures.curves(history, read["choice"], select),
            "mining": list(mining_figures(history)),
            "last_epoch": last_epoch(history),
            "distances": figures.distances(read["distances"]) if read["distances"] else None,
            "item_map": None if points is None else figures.item_map(points),
            "map_values": {} if points is None else figures.value_colours(points),
            "map_metadata": {} if points is None else pl.read_parquet_metadata(run / "map.parquet"),
            "search": figures.search(metrics["searched"]) if metrics and "searched" in metrics else None,
            "examples": read_examples(run),
            "changes": sorted(flatten(read["warm"] or {}).items()),
            "settings": sorted(flatten(_without(read["config"], "root")).items()),
            "lineage_rows": sorted(
                flatten(_without(read["lineage"], "source_query", "counts", "settings")).items()
            ),
            "counts": sorted(flatten((read["lineage"] or {}).get("counts", {})).items()),
        }
    )
    return text


def headline(gate: dict[str, Any] | None) -> str:
    """The gate's verdict in a few words."""
    if gate is None:
        return "Not judged"
    if gate["verdict"] == "pass":
        return "Promoted: the first release" if gate["champion"] is None else "Promoted"
    return "Not promoted" if gate["verdict"] == "fail" else "The champion already"


def forest(gate: dict[str, Any] | None, metrics: dict[str, Any] | None, select: str) -> Drawing | None:
    """The lead over the champion and over the baselines, where both were measured by the same metric."""
    if metrics is None:
        return None
    leads = []
    comparison = gate and gate.get("comparison")
    if gate and comparison and gate["metric"] == select:
        bound = -gate["margin"] * comparison["champion"]
        ends = comparison["low"], comparison["high"], bound, comparison["least"]
        leads.append(Lead("champion", comparison["difference"], *ends, 1 - gate.get("alpha", 0.05)))
    for system, paired in metrics.get("model_minus", {}).items():
        leads.append(Lead(system, *paired[select]))
    return figures.forest(leads, select) if leads else None


def result_tables(metrics: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A table for each cut-off: a column for each metric, a row for each system."""
    if metrics is None:
        return
    names = list(metrics["intervals"]["model"])
    for k in dict.fromkeys(name.partition("@")[2] for name in names):
        columns = [name for name in names if name.endswith(f"@{k}")]
        rows = [
            [
                system,
                *(_format_mean(means[name], metrics["intervals"][system][name]) for name in columns),
                _format_mean(means[f"coverage@{k}"], None),
            ]
            for system, means in metrics["test"].items()
        ]
        yield {"columns": [*columns, f"coverage@{k}"], "rows": rows}


class NewItemsTable(NamedTuple):
    """New items among themselves, or all items in one ranking."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def new_items_tables(known: dict[str, Any] | None) -> Iterator[NewItemsTable]:
    """The rankings of new items, by the smallest cut-off."""
    if known is None:
        return
    titles = {
        "new": f"{known['items']:,} new items ranked among themselves, {known['users']['new']:,} users",
        "all": f"All items in one ranking, {known['users']['all']:,} users",
    }
    for among, title in titles.items():
        means, intervals = known["test"][among], known["intervals"][among]
        names = list(means["model"])
        columns = [name for name in names if name.endswith(f"@{names[0].partition('@')[2]}")]
        rows = [
            [system, *(_format_mean(of[name], intervals[system][name]) for name in columns)]
            for system, of in means.items()
        ]
        yield NewItemsTable(title, columns, rows)


def slicing_figures(run: Path, metrics: dict[str, Any] | None, select: str) -> Iterator[SlicingFigure]:
    """Slices from per_user.parquet and targets.parquet; a figure where there are more than two."""
    per_user, targets = _frame(run / "per_user.parquet"), _frame(run / "targets.parquet")
    if per_user is None or targets is None or metrics is None:
        return
    deepest = max(_cut_offs(metrics))
    for number, slicing in enumerate(slicings(per_user, targets, int(select.partition("@")[2]), deepest)):
        many = len(slicing.slices) > 2
        yield SlicingFigure(slicing, figures.slices(f"slices{number}", slicing) if many else None)


def mining_figures(history: pl.DataFrame | None) -> Iterator[Drawing]:
    """Health of mining and of the space by epoch; nothing for spaces that mine no triplets."""
    if history is None or "health.effective_rank" not in history.columns:
        return
    shares = {"mined": "health.mined", "active": "health.active", "false": "health.false_negatives"}
    known = {label: column for label, column in shares.items() if column in history.columns}
    yield figures.lines(
        "shares", "Shares: pairs with a negative, active triplets, false negatives", history, known
    )
    yield figures.bands(history)
    yield figures.lines(
        "rank", "Dimensions in use (effective rank)", history, {"rank": "health.effective_rank"}
    )


def last_epoch(history: pl.DataFrame | None) -> list[tuple[str, float]]:
    """Health of mining and of the space in the last epoch."""
    if history is None:
        return []
    last = history.row(-1, named=True)
    return [(words, last[column]) for words, column in MINING_COLUMNS.items() if last.get(column) is not None]


def format_value(value: Any) -> str:
    """A value of a JSON file as text for readers."""
    if value is None or isinstance(value, Undefined):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list) and all(not isinstance(one, list | dict) for one in value):
        return ", ".join(map(format_value, value)) or "–"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def format_estimate(estimate: Estimate) -> str:
    """A value with its interval."""
    return _format_mean(estimate.value, estimate.interval)


def format_difference(estimate: Estimate) -> str:
    """A difference with its interval, both signed."""
    ends = f" [{estimate.interval[0]:+.3f}, {estimate.interval[1]:+.3f}]" if estimate.interval else ""
    return f"{estimate.value:+.4f}{ends}"


def _format_mean(value: float, interval: Any) -> str:
    return f"{value:.4f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _cut_offs(metrics: dict[str, Any]) -> list[int]:
    return sorted({int(name.partition("@")[2]) for name in metrics["intervals"]["model"]})


def _select(metrics: dict[str, Any] | None, config: dict[str, Any] | None) -> str:
    """The metric of the choice on validation, if the test window was scored by it; else ndcg@k."""
    wanted = (config or {}).get("evaluate", {}).get("select", "ndcg@10")
    if metrics is None or wanted in metrics["intervals"]["model"]:
        return str(wanted)
    return f"ndcg@{_cut_offs(metrics)[0]}"


def _without(content: dict[str, Any] | None, *names: str) -> dict[str, Any]:
    return {name: value for name, value in (content or {}).items() if name not in names}


def _frame(path: Path) -> pl.DataFrame | None:
    """A parquet file; None if it is missing or broken."""
    try:
        return files.read_table(path)
    except (FileNotFoundError, pl.exceptions.ComputeError):
        return None
