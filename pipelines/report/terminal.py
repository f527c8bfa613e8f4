"""The end of a run on the terminal: results, examples and places."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.config import places
from pipelines.config.config import Config
from pipelines.evaluation import certificate
from pipelines.evaluation.evidence import Example, read_examples
from pipelines.release.bundles import current
from pipelines.release.export import bundle_folder
from pipelines.tracking import store

SHOWN_METRICS = ("hit_rate", "recall", "ndcg")


def results_tables(result: dict[str, Any]) -> list[Table]:
    """One table for each cut-off: system x metric, the mean over users with its 95 % interval.

    Raises InputError if the result has no leakage certificate.
    """
    certificate.lines(result)
    ks = sorted({int(name.split("@")[1]) for name in result["intervals"]["model"]})
    tables = []
    for k in ks:
        names = [f"{metric}@{k}" for metric in SHOWN_METRICS]
        title = f"Test ({result['split']} split), {result['users']:,} users: mean [95 % interval]"
        table = Table("", *names, title=title, title_justify="left")
        for system, means in result["test"].items():
            intervals = result["intervals"][system]
            table.add_row(system, *(_cell(means[n], *intervals[n]) for n in names))
        tables.append(table)
    return tables


def new_items_lines(result: dict[str, Any]) -> Iterator[Table | str]:
    """How well new items are recommended, and whom the first of them would be shown to."""
    known = result.get("new_items")
    if known is None:
        return
    if "test" not in known:
        yield f"{known['items']:,} new items take {known['share_of_lists']:.1%} of lists; no user took one"
        return
    titles = {
        "new": f"{known['items']:,} new items, ranked among themselves, {known['users']['new']:,} users",
        "all": f"All items in one ranking, {known['users']['all']:,} users, "
        f"{known['share_of_targets']:.1%} of what they take is new",
    }
    k = min(int(name.split("@")[1]) for name in result["intervals"]["model"])
    names = [f"{metric}@{k}" for metric in SHOWN_METRICS]
    for among, title in titles.items():
        table = Table("", *names, title=f"{title}: mean [95 % interval]", title_justify="left")
        for system, means in known["test"][among].items():
            intervals = known["intervals"][among][system]
            table.add_row(system, *(_cell(means[n], *intervals[n]) for n in names))
        yield table
    yield f"new items take {known['share_of_lists']:.1%} of the lists; those that most lists hold:"
    for one in known["shown"]:
        users = ", ".join(map(str, one["user_ids"]))
        yield f"  {one['title']} ({one['item_id']}): in {one['lists']:,} lists, highest for users {users}"
    if known["shares_of_features"]:
        shares = sorted(known["shares_of_features"].items(), key=lambda pair: -pair[1])
        yield "what places them: " + ", ".join(f"{name} {share:.0%}" for name, share in shares)


def differences(result: dict[str, Any]) -> list[str]:
    """A line for each baseline: the model's lead, user by user, with its interval."""
    names = [name for name in result["intervals"]["model"] if name.split("@")[0] in ("hit_rate", "ndcg")]
    return [
        f"model - {system}: "
        + ", ".join("{} {:+.4f} [{:+.4f}, {:+.4f}]".format(name, *paired[name]) for name in names)
        for system, paired in result["model_minus"].items()
    ]


def show_results(result: dict[str, Any], console: Console) -> None:
    """Print the tables, the leads and the certificate. Raises InputError if there is no certificate."""
    console.print(*results_tables(result), sep="\n")
    for part in new_items_lines(result):
        console.print(part, markup=False, highlight=False, soft_wrap=True)
    for line in [*differences(result), *certificate.lines(result)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_bench(result: dict[str, Any], console: Console) -> None:
    """Print a benchmark's table, its choices and its seconds."""
    names = list(next(iter(result["test"].values())))
    table = Table("", *names, title=f"Test, {result['counts']['users_judged']:,} users: mean [95 % interval]")
    for system, means in result["test"].items():
        intervals = result["intervals"][system]
        table.add_row(system, *(_cell(means[name], *intervals[name]) for name in names))
    console.print(table)
    seconds = result["seconds"]
    console.print(
        f"the model is {result['model']}, {result['dim']} coordinates, fitted in {seconds['fit']:.0f} s on "
        f"{result['device']}, {result['threads']} threads",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for part in result["chosen"]["parts"]:
        console.print(_describe(part), markup=False, highlight=False, soft_wrap=True)


def _describe(part: dict[str, Any]) -> str:
    """A part of a model in one line: its name, weight, settings and steps."""
    shown = (
        "loss",
        "start",
        "dim",
        "temperature",
        "offset_scale",
        "margin",
        "hops",
        "learning_rate",
        "item_exponent",
    )
    settings = {name: part["settings"][name] for name in shown if name in part["settings"]}
    line = f"  {part['name']}, weight {part['weight']:g}: "
    line += ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items())
    return line + (f", {sum(part['cycles'])} steps" if part["cycles"] else "")


def example_table(example: Example) -> Table:
    """Favourites and recommendations; a star marks items taken in the test window."""
    title = f"User {escape(str(example.user_id))} (* taken in the test window)"
    table = Table("takes most", "recommended", title=title, title_justify="left")
    later = {item.item_id for item in example.taken_later}
    names = [
        ("* " if item.item_id in later else "  ") + (item.title or str(item.item_id))
        for item in example.recommended
    ]
    for row in range(max(len(names), len(example.favourites))):
        left = example.favourites[row] if row < len(example.favourites) else ""
        right = names[row] if row < len(names) else ""
        table.add_row(escape(left), escape(right))
    return table


def show(config: Config, run: Path, result: dict[str, Any], words: list[str]) -> None:
    """Print the results to standard output and to report.txt in the run's folder.

    words: of the command that recommends, without secrets.
    """
    examples = read_examples(run)
    with (run / "report.txt").open("w", encoding="utf-8") as file:
        for console in (Console(), Console(file=file, width=100)):
            show_results(result, console)
            console.print(*map(example_table, examples), sep="\n")
            lines = {
                "leaks": result["leaks"],
                "search": result["search"],
                **in_mlflow(config, run),
                "report": f"{run / 'report.html'} (beside it metrics.json, *.parquet, *.svg)",
                **_bundle_lines(config, run, [*words, "--user", str(examples[0].user_id)]),
            }
            for name, value in lines.items():
                console.print(f"{name:>10}: {value}", markup=False, highlight=False, soft_wrap=True)


def _bundle_lines(config: Config, run: Path, words: list[str]) -> dict[str, str]:
    """The run's bundle, the champion if that is another one, and how to ask and serve the current one."""
    bundle, champion = bundle_folder(config, run), current(config.bundles)
    lines = {"bundle": str(bundle)}
    if champion != bundle.name:
        lines["bundle"] += " (not promoted)"
        lines["champion"] = str(config.bundles / champion) if champion else "none yet"
    if champion is None:
        return lines
    serve = places.command(*places.program(), "serve", "--bundles", config.bundles.absolute())
    return lines | {"ask it": places.command(*words), "serve it": serve}


def in_mlflow(config: Config, run: Path) -> dict[str, str]:
    """Where MLflow shows the run, and the command that starts its pages."""
    uri, note = store.shown_uri(config), store.read_note(run)
    if note is None:
        return {"MLflow": f"not in {uri} yet: a warning of this retrain says why"}
    place = {"MLflow": f"run {note['run_id']} in {uri}"}
    if uri.startswith("http"):
        return place | {"its page": f"{uri.rstrip('/')}/{store.run_page(note)}"}
    return place | {
        "its page": f"http://127.0.0.1:5000/{store.run_page(note)}",
        "after": places.command("mlflow", "ui", "--backend-store-uri", uri),
    }


def _cell(mean: float, low: float, high: float) -> str:
    """A mean with its interval, short enough for three in 80 columns."""
    return re.sub(r"\b0\.", ".", f"{mean:.4f} [{low:.3f}, {high:.3f}]")
