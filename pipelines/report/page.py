"""report.html: a run on one page, from the files of its folder alone; the same files make the same bytes.

It has no scripts and asks for nothing: pictures are SVG within the page.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from jinja2 import Environment, FileSystemLoader, Undefined

from pipelines.config import files
from pipelines.config.errors import InputError
from pipelines.config.files import flat
from pipelines.evaluation import certificate
from pipelines.evaluation.evidence import read_examples
from pipelines.evaluation.slices import Estimate, Slicing, slicings
from pipelines.report import figures
from pipelines.report.figures import Drawing, Lead

NAME, TEMPLATE = "report.html", "page.html.jinja"
JSON = ("metrics", "config", "choice", "gate", "contracts", "warm", "stages", "lineage", "distances", "train")
OF_MINING = {  # columns of history.parquet that a person reads, by the question they answer
    "pairs that found a negative": "health.mined",
    "triplets that still teach": "health.active",
    "mined negatives that are held-out positives": "health.false_negatives",
    "dimensions in use": "health.effective_rank",
    "spread of the lengths": "health.norm_spread",
    "hardest hinge": "health.hardest_hinge",
}


class Sliced(NamedTuple):
    """One way to cut: the picture, and a row a slice."""

    slicing: Slicing
    drawing: Drawing | None


def write(run: Path) -> Path:
    """Make the page anew and put it into the run's folder, whole. Raises InputError on a full disk."""
    path = run / NAME
    try:
        files.write_whole(path, page(run))
    except OSError as error:
        raise InputError(f"report '{path}' cannot be written: {error}") from None
    return path


def page(run: Path) -> str:
    """The whole page; what is not in the folder is said to be missing."""
    read = {name: files.masked(files.read_json(run / f"{name}.json")) for name in JSON}
    metrics, history = read["metrics"], _frame(run / "history.parquet")
    points = _frame(run / "map.parquet")
    select = _select(metrics, read["config"])
    certified = metrics if metrics is not None and certificate.is_complete(metrics) else None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": plain, "estimate": estimate, "signed": signed}
    text: str = environment.get_template(TEMPLATE).render(
        read
        | {
            "headline": headline(read["gate"]),
            "select": select,
            "forest": forest(read["gate"], certified, select),
            "certified": certified is not None,
            "results": list(results(certified)),
            "sliced": list(sliced(run, certified, select)),
            "curves": list(curves(history, read["choice"], select)),
            "mining": list(mining(history)),
            "last_epoch": last_epoch(history),
            "distances": figures.distances(read["distances"]) if read["distances"] else None,
            "item_map": None if points is None else figures.item_map(points),
            "map_values": {} if points is None else figures.value_colours(points),
            "map_about": {} if points is None else pl.read_parquet_metadata(run / "map.parquet"),
            "search": figures.search(metrics["searched"]) if metrics and "searched" in metrics else None,
            "examples": read_examples(run),
            "moved": sorted(flat(read["warm"] or {}).items()),
            "settings": sorted(flat(_without(read["config"], "root")).items()),
            "traced": sorted(flat(_without(read["lineage"], "source_query", "counts", "settings")).items()),
            "counts": sorted(flat((read["lineage"] or {}).get("counts", {})).items()),
        }
    )
    return text


def headline(gate: dict[str, Any] | None) -> str:
    """The gate's verdict in two or three words."""
    if gate is None:
        return "Not judged"
    if gate["verdict"] == "pass":
        return "Promoted: the first release" if gate["champion"] is None else "Promoted"
    return "Not promoted" if gate["verdict"] == "fail" else "The champion already"


def forest(gate: dict[str, Any] | None, metrics: dict[str, Any] | None, select: str) -> Drawing | None:
    """The lead over the champion and over the baselines, as far as they were measured by one metric."""
    if metrics is None:
        return None
    leads = []
    found = gate and gate.get("comparison")
    if gate and found and gate["metric"] == select:
        bound = -gate["margin"] * found["champion"]
        ends = found["low"], found["high"], bound, found["least"]
        leads.append(Lead("champion", found["difference"], *ends, 1 - gate.get("alpha", 0.05)))
    for system, paired in metrics.get("model_minus", {}).items():
        leads.append(Lead(system, *paired[select]))
    return figures.forest(leads, select) if leads else None


def results(metrics: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A table a cut-off: metrics across, systems down."""
    if metrics is None:
        return
    names = list(metrics["intervals"]["model"])
    for k in dict.fromkeys(name.partition("@")[2] for name in names):
        columns = [name for name in names if name.endswith(f"@{k}")]
        rows = [
            [
                system,
                *(_mean(means[name], metrics["intervals"][system][name]) for name in columns),
                _mean(means[f"coverage@{k}"], None),
            ]
            for system, means in metrics["test"].items()
        ]
        yield {"columns": [*columns, f"coverage@{k}"], "rows": rows}


def sliced(run: Path, metrics: dict[str, Any] | None, select: str) -> Iterator[Sliced]:
    """Slices from per_user.parquet and targets.parquet; a picture where there are more than two."""
    per_user, targets = _frame(run / "per_user.parquet"), _frame(run / "targets.parquet")
    if per_user is None or targets is None or metrics is None:
        return
    deepest = max(_ks(metrics))
    cuts = slicings(per_user, targets, int(select.partition("@")[2]), deepest)
    for number, slicing in enumerate(cuts):
        many = len(slicing.slices) > 2
        yield Sliced(slicing, figures.slices(f"slices{number}", slicing) if many else None)


def curves(history: pl.DataFrame | None, choice: dict[str, Any] | None, select: str) -> Iterator[Drawing]:
    """Loss and validation by epoch."""
    if history is None:
        return
    kept = choice["epochs"] if choice else None
    yield figures.lines("loss", "Training loss, per interaction", history, {"loss": "loss"}, kept)
    name = f"validation.{select}"
    if name in history.columns:
        yield figures.lines("validation", f"Validation, {select}", history, {select: name}, kept)


def mining(history: pl.DataFrame | None) -> Iterator[Drawing]:
    """How mining fared by epoch; nothing for losses of whole lists on spaces without triplets."""
    if history is None or "health.effective_rank" not in history.columns:
        return
    shares = {"found one": "health.mined", "still teach": "health.active", "false": "health.false_negatives"}
    known = {label: column for label, column in shares.items() if column in history.columns}
    yield figures.lines("shares", "Negatives: shares", history, known)
    yield figures.bands(history)
    yield figures.lines(
        "rank", "Dimensions in use (effective rank)", history, {"rank": "health.effective_rank"}
    )


def last_epoch(history: pl.DataFrame | None) -> list[tuple[str, float]]:
    """What mining and the space looked like at the end."""
    if history is None:
        return []
    last = history.row(-1, named=True)
    return [(words, last[column]) for words, column in OF_MINING.items() if last.get(column) is not None]


def plain(value: Any) -> str:
    """A value of a JSON file for people."""
    if value is None or isinstance(value, Undefined):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list) and all(not isinstance(one, list | dict) for one in value):
        return ", ".join(map(plain, value)) or "–"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def estimate(found: Estimate) -> str:
    """A value with its interval."""
    return _mean(found.value, found.interval)


def signed(found: Estimate) -> str:
    """A difference with its interval."""
    ends = f" [{found.interval[0]:+.3f}, {found.interval[1]:+.3f}]" if found.interval else ""
    return f"{found.value:+.4f}{ends}"


def _mean(value: float, ends: Any) -> str:
    return f"{value:.4f} [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else f"{value:.4f}"


def _ks(metrics: dict[str, Any]) -> list[int]:
    return sorted({int(name.partition("@")[2]) for name in metrics["intervals"]["model"]})


def _select(metrics: dict[str, Any] | None, config: dict[str, Any] | None) -> str:
    """The metric that validation chose by, where it is among those measured."""
    wanted = (config or {}).get("evaluate", {}).get("select", "ndcg@10")
    if metrics is None or wanted in metrics["intervals"]["model"]:
        return str(wanted)
    return f"ndcg@{_ks(metrics)[0]}"


def _without(content: dict[str, Any] | None, *names: str) -> dict[str, Any]:
    return {name: value for name, value in (content or {}).items() if name not in names}


def _frame(path: Path) -> pl.DataFrame | None:
    """A parquet file; None where there is none that can be read."""
    try:
        return files.read_table(path)
    except (FileNotFoundError, pl.exceptions.ComputeError):
        return None
