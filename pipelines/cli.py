"""The command line: names, help and exit codes; the work is in the module of each verb."""

import os
import signal
import sys
import traceback
import types
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from pipelines.config import places
from pipelines.config.config import Config
from pipelines.config.errors import BusyError, DataError, InputError
from pipelines.config.loading import load_config
from pipelines.config.secrets import mask_secrets
from pipelines.tracking import log

DONE, FAILED, BAD_INPUT, BAD_DATA, NOT_PROMOTED, BUSY = 0, 1, 2, 3, 4, 5
INTERRUPTED = 130  # how typer tells of Ctrl-C
TERMINATED = 143  # 128 and the number of SIGTERM
SERVING = ("uvicorn", "fastapi", "prometheus_client")  # of the extra serve; any other is of train

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="From an interaction log to recommendations. Exit codes: 0 done, 2 bad config or input, 3 bad data "
    "(a check or a contract), 4 not promoted, 5 another retrain is at work, 143 stopped by SIGTERM, 1 else.",
)

releases = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The bundles of a folder.")
app.add_typer(releases, name="bundles")

PATH: dict[str, Any] = {"parser": places.option, "metavar": "PATH"}
BundleFolder = Annotated[
    Path, typer.Option("--bundles", envvar="RECSYS_BUNDLES", help="folder of bundles, <root>/bundles", **PATH)
]
ConfigFile = Annotated[
    Path, typer.Option("--config", help="TOML file; its keys and defaults are below", **PATH)
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="override one key, e.g. loss.margin=0.5; may be repeated")
]
RunName = Annotated[
    str | None, typer.Option("--run", help="name of the run; default the latest of this config")
]


def _keys(*sections: str) -> str:
    """The settings that a command reads: a line each, with default and meaning, straight from the models."""
    lines = ["\b", "Keys of the config file, with defaults:"]
    for section in ("", *sections):
        model: Any = Config
        if section:
            model = Config.model_fields[section].annotation
            if isinstance(model, types.UnionType):
                model = model.__args__[0]
        for name, field in model.model_fields.items():
            nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            if nested or (not section and name == "items"):
                continue
            default = str(field.default) if isinstance(field.default, Path) else field.default
            default = "required" if field.is_required() else f"= {default!r}"
            dotted = f"{section}.{name}" if section else name
            lines.append(f"  {dotted} {default}  {field.description or _choices(field.annotation)}")
    return "\n".join(lines)


def _choices(annotation: Any) -> str:
    return " or ".join(repr(choice) for choice in getattr(annotation, "__args__", ()))


@app.command()
def check(
    files: Annotated[
        list[str], typer.Argument(help="a file, or a glob in quotes: .parquet, .csv, .tsv, .json, .ndjson")
    ],
) -> None:
    """Look at a log and print a config that reads it, with what was found as comments; then try it.

    Exit codes: 0 prepare goes through with it; 3 a choice is left to you: it stands there marked CHOOSE, and
    standard error says which; 2 the files cannot be read.
    """
    from pipelines.data.proposal.check import check

    proposal = check(files)
    print(proposal.text())
    if proposal.choices:
        stop(f"left to you, marked CHOOSE: {', '.join(proposal.choices)}", BAD_DATA)


@app.command(epilog=_keys("source", "items", "split", "prepare", "contracts"))
def prepare(config: ConfigFile, set_: Overrides = None) -> None:
    """Read the interaction log, check it and its contracts, and make the tables that training reads."""
    from pipelines.data.contracts import accept, examine
    from pipelines.data.prepare import prepare

    loaded = load_config(config, set_)
    prepare(loaded, lambda con: accept(con, examine(con, loaded)))


@app.command(epilog=_keys("space", "loss", "mining", "train", "spectral", "evaluate", "tracking"))
def train(config: ConfigFile, set_: Overrides = None) -> None:
    """Choose on the validation window, then fit on everything before the test window."""
    from pipelines.training.train import train

    print(train(load_config(config, set_)))


@app.command(epilog=_keys("evaluate"))
def evaluate(config: ConfigFile, set_: Overrides = None, run: RunName = None) -> None:
    """Score the test window once: model, served, learned part, spectral and popularity."""
    from rich.console import Console

    from pipelines.commands.evaluate import evaluate
    from pipelines.report.terminal import show_results

    loaded = load_config(config, set_)
    show_results(evaluate(loaded, find_run(loaded, run)), Console())


@app.command(epilog=_keys("export"))
def export(config: ConfigFile, set_: Overrides = None, run: RunName = None) -> None:
    """Write the bundle and register it with MLflow as the challenger; promote makes it current."""
    from pipelines.commands.retrain import release

    loaded = load_config(config, set_)
    release(loaded, find_run(loaded, run))


@app.command(epilog=_keys("gate"))
def promote(
    config: ConfigFile,
    set_: Overrides = None,
    run: RunName = None,
    force: Annotated[bool, typer.Option("--force", help="promote even if the gate says no")] = False,
) -> None:
    """Compare the run's bundle with the current one and let it take over if the gate allows; else exit 4."""
    from pipelines.commands.retrain import alone
    from pipelines.release import promotion
    from pipelines.release.gate import decide, why

    loaded = load_config(config, set_)
    folder = find_run(loaded, run)
    with alone(loaded.root):
        promotion.finish(loaded)
        verdict = decide(loaded, folder)
        if not verdict.holds:
            if not force:
                promotion.prune(loaded)
                stop(why(verdict), NOT_PROMOTED)
            print(f"promoted by force; the gate says {why(verdict)}")
        print(promotion.promote(loaded, folder))


@app.command()
def rollback(
    config: ConfigFile,
    set_: Overrides = None,
    to: Annotated[str | None, typer.Option(help="version; default: the champion before, if whole")] = None,
) -> None:
    """Make an earlier bundle the champion again: MLflow's alias, and bundles/current."""
    from pipelines.commands.retrain import alone
    from pipelines.release.promotion import rollback

    loaded = load_config(config, set_)
    with alone(loaded.root):
        before, after = rollback(loaded, to)
    shown = f"already {after}" if before == after else f"{before} -> {after}"
    print(f"{loaded.bundles / 'current'}: {shown}")


@app.command(epilog=_keys("tracking"))
def claim(config: ConfigFile, set_: Overrides = None) -> None:
    """Take tracking.experiment in MLflow over for this root: the root that has it is gone, or was moved."""
    from pipelines.commands.retrain import alone
    from pipelines.tracking import store

    loaded = load_config(config, set_)
    with alone(loaded.root):
        print(store.take(loaded))


@app.command()
def recommend(
    config: ConfigFile,
    user: Annotated[str, typer.Option(help="user id; an unknown one gets the popular items")],
    k: Annotated[int, typer.Option("-k", help="number of items, >= 1")] = 10,
    set_: Overrides = None,
) -> None:
    """Print the current bundle's items for a user: id, score (minus the distance), title; tabs between."""
    from pipelines.commands.recommend import recommend

    version, items = recommend(load_config(config, set_), user, k)
    print(f"# bundle {version}", file=sys.stderr)
    if items and items[0].score is None:
        print(f"# user {user!r} is unknown to it: popular items", file=sys.stderr)
    for item in items:
        score = "popular" if item.score is None else f"{item.score:.6f}"
        print(item.item_id, score, item.title or "", sep="\t")


@app.command(epilog=_keys(*(name for name in Config.model_fields if name not in ("root", "seed"))))
def retrain(
    config: ConfigFile,
    set_: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="examine the log by its contracts, print that, do nothing else")
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="lines on standard error are JSON, and no bars are drawn")
    ] = False,
) -> None:
    """From the log to the current bundle, as a scheduler calls it; what is done and still valid is reused.

    Exit codes: 0 promoted, or nothing new; 2 bad config or input; 3 the log breaks a check or a contract;
    4 not promoted, the champion goes on; 5 another retrain is at work; 143 stopped by SIGTERM: the next one
    goes on from its checkpoint; 1 anything else, and it may be tried again.
    """
    from pipelines.commands.retrain import dry_run as examined
    from pipelines.commands.retrain import retrain
    from pipelines.report.terminal import show

    log.to_standard_error(as_json=log_json)
    loaded = load_config(config, set_)
    if dry_run:
        from rich.console import Console

        from pipelines.data.contracts import raise_if_broken, report_table

        report = examined(loaded)
        Console().print(report_table(report))
        raise_if_broken(report)
        return
    outcome = retrain(loaded)
    show(loaded, outcome.run, outcome.result, again("recommend", config, set_))
    if not outcome.verdict.holds:
        from pipelines.release.gate import why

        goes_on = "the champion goes on" if outcome.verdict.champion else "there is no champion yet"
        stop(f"{why(outcome.verdict)}; {goes_on}", NOT_PROMOTED)


@app.command()
def report(config: ConfigFile, set_: Overrides = None, run: RunName = None) -> None:
    """Make report.html, a run on one page, anew from the files of the run's folder alone."""
    from pipelines.report import page

    print(page.write(find_run(load_config(config, set_), run)))


@app.command(epilog=_keys("space", "loss", "mining", "train", "spectral"))
def tune(
    config: ConfigFile,
    space: Annotated[Path, typer.Option(help="TOML file: what may be tried, e.g. configs/tune.toml", **PATH)],
    seconds: Annotated[
        float | None, typer.Option(min=0, help="ends with the epoch that is running then; default: never")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="ends with so many, those before counted; default: 20 without --seconds"),
    ] = None,
    set_: Overrides = None,
) -> None:
    """Search settings on the validation window; called again it goes on. The test window is not read."""
    from rich.console import Console

    from pipelines.tuning.trials import show
    from pipelines.tuning.tune import tune

    loaded = load_config(config, set_)
    folder = tune(loaded, space, seconds, trials)
    show(folder, Console(), loaded.evaluate.select, again("retrain", config, set_))


@app.command()
def history(
    config: ConfigFile,
    last: Annotated[int, typer.Option(min=1, help="how many runs")] = 20,
    measures: Annotated[bool, typer.Option("--measures", help="what contracts measured, too")] = False,
    set_: Overrides = None,
) -> None:
    """The last runs, the newest first: their events, their metric and how they ended."""
    from rich.console import Console

    from pipelines.data.history import print_history

    print_history(load_config(config, set_), last, measures, Console())


@app.command(
    epilog="Settings are in the sections validation, spectral, graph, beside, evaluate and export: each with "
    "its default and meaning in pipelines/config/bench.py, and named where one is mistyped."
)
def bench(
    train: Annotated[Path, typer.Option(help="parquet with the columns user_id and item_id", **PATH)],
    test: Annotated[Path, typer.Option(help="the same of what is asked for; scored once, at last", **PATH)],
    out: Annotated[Path, typer.Option(help="metrics.json; the plot goes beside it", **PATH)],
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file; default: no changes", **PATH)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    seconds: Annotated[
        float | None, typer.Option(help="budget of the fit, all choices included; default: none")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="change one setting, e.g. graph.hops=[3]; repeatable")
    ] = None,
) -> None:
    """Fit within a budget on a published split; a slice of train chooses, test is scored once."""
    from rich.console import Console

    from pipelines.commands.bench import bench
    from pipelines.config.bench import Bench
    from pipelines.config.loading import load_settings
    from pipelines.report.terminal import show_bench

    show_bench(bench(load_settings(Bench, config, set_), train, test, out, device, seconds), Console())
    print(out)


@app.command()
def serve(
    bundles: Annotated[
        Path, typer.Option(envvar="RECSYS_BUNDLES", help="folder of bundles with the link `current`", **PATH)
    ],
    host: Annotated[str, typer.Option(help="address to listen at; the default is this machine alone")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="processes; they share the bundle's memory")] = 1,
    poll_seconds: Annotated[
        float,
        typer.Option(envvar="RECSYS_POLL_SECONDS", min=0.01, max=86400, help="between looks at `current`"),
    ] = 1.0,
) -> None:
    """Answer over HTTP; a new `current` is verified and swapped in. RECSYS_TOKEN, if set, must be sent."""
    from pipelines.commands.serve import serve

    serve(bundles, host, port, workers, poll_seconds)


@releases.command("list")
def list_bundles(bundles: BundleFolder) -> None:
    """Every version, newest first, with its sizes and what its search was measured to find."""
    from pipelines.release.bundles import listed

    for row in listed(bundles):
        print(*row, sep="\t")


@releases.command("verify")
def verify_bundles(
    bundles: BundleFolder, version: Annotated[str | None, typer.Argument(help="default: all")] = None
) -> None:
    """Read versions as a whole, from their bytes to their answers; exit code 1 if one is not as written."""
    from pipelines.release.bundles import verified

    found = verified(bundles, version)
    for name, wrong in found:
        print(name, wrong or "ok", sep="\t")
    if any(wrong for _, wrong in found):
        raise typer.Exit(FAILED)


@releases.command("rollback")
def roll_back(
    bundles: BundleFolder,
    to: Annotated[str | None, typer.Option(help="default: the newest older one that is whole")] = None,
) -> None:
    """Verify an earlier version, then point `current` at it; servers swap it in."""
    from pipelines.release.bundles import rolled_back

    before, after = rolled_back(bundles, to)
    print(f"{bundles / 'current'}: " + (f"already {after}" if before == after else f"{before} -> {after}"))


@app.command()
def doctor() -> None:
    """Say what is missing for serving and for training, and which device would be used and why.

    Exit code 0 only if all of it is there.
    """
    from pipelines.commands.doctor import report

    lines, complete = report()
    print("\n".join(lines))
    if not complete:
        raise typer.Exit(FAILED)


def again(verb: str, config: Path, set_: list[str] | None) -> list[str]:
    """The words of a command on the same configuration, without MLflow's URI, which may hold a password."""
    kept = [
        override
        for override in set_ or []
        if not override.strip().startswith("tracking") or override.strip().startswith("tracking.experiment")
    ]
    overrides = [word for override in kept for word in ("--set", mask_secrets(override))]
    return [*places.program(), verb, "--config", str(config), *overrides]


def find_run(config: Config, name: str | None) -> Path:
    """The named run, or the latest of these data and settings; raises InputError if there is none."""
    from pipelines.data.prepared import read_prepared
    from pipelines.training.train import finished_run, run_key

    if name is None:
        run = finished_run(config, run_key(config, read_prepared(config)))
        if run is None:
            raise InputError(
                f"no finished run of these data and settings in '{config.runs}': run train first, or name "
                "a run of others with --run"
            )
        return run
    run = config.runs / name
    if name.startswith(".") or not (run / "train.json").exists():
        raise InputError(f"no finished run '{name}' in '{config.runs}': run train first")
    return run


def main() -> None:
    """Run a command; every error is one message on standard error and an exit code."""
    terminated = False
    log.to_standard_error()

    def on_sigterm(number: int, frame: types.FrameType | None) -> None:
        nonlocal terminated
        terminated = True  # a scheduler's stop is cleaned up like Ctrl-C
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        app(standalone_mode=True)
    except DataError as error:
        stop(str(error), BAD_DATA)
    except BusyError as error:
        stop(str(error), BUSY)
    except InputError as error:
        stop(str(error), BAD_INPUT)
    except SystemExit as done:
        if done.code != INTERRUPTED:
            raise
        message = "what was there before still stands; train and retrain go on from the last checkpoint"
        if terminated:
            stop(f"stopped by SIGTERM; {message}", TERMINATED)
        stop(f"interrupted; {message}", FAILED)
    except ModuleNotFoundError as error:
        if error.name == "annoy":  # recsys/index.py says what to install
            stop(str(error), FAILED)
        extra = "serve" if error.name in SERVING else "train"
        stop(f"{error}: this needs pip install '.[{extra}]' in the repository", FAILED)
    except Exception as error:
        if os.environ.get("RECSYS_TRACEBACK"):
            traceback.print_exc()
        first_line = (str(error).splitlines() or ["no message"])[0]
        stop(f"{type(error).__name__}: {first_line} (RECSYS_TRACEBACK=1 shows where)", FAILED)


def stop(message: str, code: int) -> None:
    """One line on standard error, and the exit code."""
    log.LOGGER.error(f"recsys: {message}")
    sys.exit(code)


if __name__ == "__main__":
    main()
