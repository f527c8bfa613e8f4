"""The command line: names, help texts and exit codes; what a command does is in the module it imports.

Modules are imported inside the commands, so that each loads only what it needs.
"""
# Long: one function per command, with its options and their help.

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer import Argument, Option

from pipelines.config import places
from pipelines.config.config import Config
from pipelines.config.errors import BusyError, DataError, InputError
from pipelines.config.help import describe_keys
from pipelines.config.loading import load_config
from pipelines.tracking import log

DONE, FAILED, BAD_INPUT, BAD_DATA, NOT_PROMOTED, BUSY = 0, 1, 2, 3, 4, 5
INTERRUPTED = 130  # typer's exit code for Ctrl-C
TERMINATED = 143  # 128 + the number of SIGTERM
RESUMABLE = "earlier results are kept; train and retrain continue from the last checkpoint"
SERVING = ("uvicorn", "fastapi", "prometheus_client")  # in extra serve; all other packages in train

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="From an interaction log to recommendations. Exit codes: 0 done, 2 bad config or input, 3 bad data "
    "(a check or a contract), 4 not promoted, 5 another retrain is running, 143 stopped by SIGTERM, "
    "1 any other error.",
)

releases = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, verify and roll back the bundles in a folder."
)
app.add_typer(releases, name="bundles")

PATH: dict[str, Any] = {"parser": places.path_option, "metavar": "PATH"}
BundleFolder = Annotated[
    Path, Option("--bundles", envvar="RECSYS_BUNDLES", help="folder of bundles: <root>/bundles", **PATH)
]
ConfigFile = Annotated[Path, Option("--config", help="TOML file; all keys: recsys retrain --help", **PATH)]
Overrides = Annotated[
    list[str] | None, Option("--set", help="override one key, e.g. loss.margin=0.5; repeatable")
]
Seconds = Annotated[
    float | None, Option(help="time budget of choices and fit together; default: train.seconds")
]
RunName = Annotated[str | None, Option("--run", help="name of the run; default: the latest of this config")]


@app.command()
def check(
    files: Annotated[
        list[str], Argument(help="a file, or a quoted glob: .parquet, .csv, .tsv, .json, .ndjson")
    ],
) -> None:
    """Propose a config for a log: print it with the findings as comments, and test it with prepare.

    Exit codes: 0 prepare accepts it; 3 you must make choices, marked CHOOSE in the config and listed on
    standard error; 2 the files cannot be read.
    """
    from pipelines.data.proposal.check import check

    proposal = check(files)
    print(proposal.text())
    if proposal.choices:
        stop(f"your choice, marked CHOOSE: {', '.join(proposal.choices)}", BAD_DATA)


@app.command(epilog=describe_keys("source", "items", "split", "prepare", "contracts"))
def prepare(config: ConfigFile, set_: Overrides = None) -> None:
    """Read the interaction log, check it and its contracts, and make the tables for training."""
    from pipelines.data.contracts import accept, examine
    from pipelines.data.prepare import prepare

    loaded = load_config(config, set_)
    prepare(loaded, lambda con: accept(con, examine(con, loaded)))


@app.command(
    epilog=describe_keys("space", "loss", "mining", "graph", "train", "spectral", "evaluate", "tracking")
)
def train(config: ConfigFile, set_: Overrides = None) -> None:
    """Choose settings on the validation window, then fit on everything before the test window."""
    from pipelines.training.train import train

    print(train(load_config(config, set_)))


@app.command(epilog=describe_keys("evaluate"))
def evaluate(config: ConfigFile, set_: Overrides = None, run: RunName = None) -> None:
    """Score the test window once: the model, the model as served, its learned part, and two baselines."""
    from rich.console import Console

    from pipelines.commands.evaluate import evaluate
    from pipelines.commands.runs import find_run
    from pipelines.report.terminal import show_results

    loaded = load_config(config, set_)
    show_results(evaluate(loaded, find_run(loaded, run)), Console())


@app.command(epilog=describe_keys("export"))
def export(config: ConfigFile, set_: Overrides = None, run: RunName = None) -> None:
    """Write the run's bundle and register it with MLflow as challenger; promote makes it current."""
    from pipelines.commands.retrain import release
    from pipelines.commands.runs import find_run

    loaded = load_config(config, set_)
    release(loaded, find_run(loaded, run))


@app.command(epilog=describe_keys("gate"))
def promote(
    config: ConfigFile,
    set_: Overrides = None,
    run: RunName = None,
    force: Annotated[bool, Option("--force", help="promote even if the gate refuses")] = False,
) -> None:
    """Compare the run's bundle with the current one, and make it current if the gate allows; else exit 4."""
    from pipelines.commands.promote import promote
    from pipelines.commands.runs import find_run
    from pipelines.release.gate import why

    loaded = load_config(config, set_)
    verdict, version = promote(loaded, find_run(loaded, run), force)
    if version is None:
        stop(why(verdict), NOT_PROMOTED)
    if not verdict.holds:
        print(f"promoted by force; the gate says {why(verdict)}")
    print(version)


@app.command()
def rollback(
    config: ConfigFile,
    set_: Overrides = None,
    to: Annotated[
        str | None, Option(help="version; default: the latest earlier champion that is intact")
    ] = None,
) -> None:
    """Make an earlier champion current again, in bundles/current and as MLflow's alias.

    Later retrains do not promote the withdrawn version again. To move only bundles/current, e.g. on a server
    without the config, use `recsys bundles rollback`.
    """
    from pipelines.commands.promote import rollback

    loaded = load_config(config, set_)
    print(rollback(loaded.bundles, to, loaded))


@app.command(epilog=describe_keys("tracking"))
def claim(config: ConfigFile, set_: Overrides = None) -> None:
    """Give tracking.experiment in MLflow to this root, when the root that owned it was removed or moved."""
    from pipelines.commands.retrain import alone
    from pipelines.tracking import store

    loaded = load_config(config, set_)
    with alone(loaded.root):
        print(store.take_over(loaded))


@app.command()
def recommend(
    config: ConfigFile,
    user: Annotated[str, Option(help="user id; an unknown user gets the popular items")],
    k: Annotated[int, Option("-k", help="number of items, >= 1")] = 10,
    set_: Overrides = None,
) -> None:
    """Print the current bundle's items for a user, tab-separated: id, score (minus distance), title."""
    from pipelines.commands.recommend import recommend

    version, items = recommend(load_config(config, set_), user, k)
    print(f"# bundle {version}", file=sys.stderr)
    if items and items[0].score is None:
        print(f"# user {user!r} is unknown to this bundle: popular items", file=sys.stderr)
    for item in items:
        score = "popular" if item.score is None else f"{item.score:.6f}"
        print(item.item_id, score, item.title or "", sep="\t")


@app.command(epilog=describe_keys(*(name for name in Config.model_fields if name not in ("root", "seed"))))
def retrain(
    config: ConfigFile,
    set_: Overrides = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="only check the log against its contracts, and print the result")
    ] = False,
    log_json: Annotated[
        bool, Option("--log-json", help="log JSON lines to standard error, without progress bars")
    ] = False,
    seconds: Seconds = None,
) -> None:
    """Run everything from the log to the current bundle, for a scheduler; valid results are reused.

    Exit codes: 0 promoted, or nothing new; 2 bad config or input; 3 the log breaks a check or a contract;
    4 not promoted, the champion stays current; 5 another retrain is running; 143 stopped by SIGTERM, the next
    retrain continues from its checkpoint; 1 any other error, which may be retried.
    """
    from pipelines.commands.retrain import dry_run as check_contracts
    from pipelines.commands.retrain import retrain
    from pipelines.report.terminal import show

    log.to_standard_error(as_json=log_json)
    loaded = load_config(config, [*(set_ or []), *([] if seconds is None else [f"train.seconds={seconds}"])])
    if dry_run:
        from rich.console import Console

        from pipelines.data.contracts import raise_if_broken, report_table

        report = check_contracts(loaded)
        Console().print(report_table(report))
        raise_if_broken(report)
        return
    outcome = retrain(loaded)
    show(loaded, outcome.run, outcome.result, places.next_command("recommend", config, set_))
    if not outcome.verdict.holds:
        from pipelines.release.gate import why

        champion = "the champion stays" if outcome.verdict.champion else "there is no champion yet"
        stop(f"{why(outcome.verdict)}; {champion}", NOT_PROMOTED)


@app.command()
def refresh(
    config: ConfigFile,
    set_: Overrides = None,
    log_json: Annotated[
        bool, Option("--log-json", help="log JSON lines to standard error, without progress bars")
    ] = False,
) -> None:
    """Release the champion's model with today's users and items, in minutes: nothing is trained.

    New items are placed by items.attributes, text and vectors (items.place_new), new users by what they have;
    lists leave out what users have bought since. Exit codes are those of retrain.
    """
    from pipelines.commands.refresh import refresh

    log.to_standard_error(as_json=log_json)
    done = refresh(load_config(config, set_))
    if not done.holds:
        stop(f"{done.why}; the champion stays", NOT_PROMOTED)
    print(done.version)


@app.command()
def report(config: ConfigFile, set_: Overrides = None, run: RunName = None) -> None:
    """Write report.html, a run on one page, from the files in the run's folder."""
    from pipelines.commands.runs import find_run
    from pipelines.report import page

    print(page.write(find_run(load_config(config, set_), run)))


@app.command(epilog=describe_keys("space", "loss", "mining", "graph", "train", "spectral"))
def tune(
    config: ConfigFile,
    space: Annotated[Path, Option(help="TOML file with the search space, e.g. configs/tune.toml", **PATH)],
    seconds: Annotated[
        float | None, Option(min=0, help="stop after the epoch running at that time; default: no limit")
    ] = None,
    trials: Annotated[
        int | None,
        Option(min=1, help="stop at this number, earlier calls included; default: 20 without --seconds"),
    ] = None,
    set_: Overrides = None,
) -> None:
    """Search for settings on the validation window; a second call continues. The test window is not read."""
    from rich.console import Console

    from pipelines.tuning.trials import show
    from pipelines.tuning.tune import tune

    loaded = load_config(config, set_)
    folder = tune(loaded, space, seconds, trials)
    show(folder, Console(), loaded.evaluate.select, places.next_command("retrain", config, set_))


@app.command()
def history(
    config: ConfigFile,
    last: Annotated[int, Option(min=1, help="number of runs")] = 20,
    measures: Annotated[bool, Option("--measures", help="also show what the contracts measured")] = False,
    set_: Overrides = None,
) -> None:
    """Show the last retrains and refreshes, newest first: events, metric, new items, and how each ended."""
    from rich.console import Console

    from pipelines.data.history import print_history

    print_history(load_config(config, set_), last, measures, Console())


# Many arguments: each is an option
@app.command(
    epilog="Settings are those of training, in the sections space, loss, mining, graph, train, spectral, "
    "evaluate and export (recsys retrain --help), and validation.share; pipelines/config/bench.py has the "
    "defaults that differ: no budget, evaluate.select = ndcg@20, export.recall = 0.995."
)
def bench(
    train: Annotated[Path, Option(help="parquet with the columns user_id and item_id", **PATH)],
    test: Annotated[Path, Option(help="the same for the pairs to predict; scored once, at the end", **PATH)],
    out: Annotated[Path, Option(help="metrics.json to write; the plot goes to the same folder", **PATH)],
    config: Annotated[
        Path | None, Option("--config", help="TOML file; default: all defaults", **PATH)
    ] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    seconds: Seconds = None,
    set_: Annotated[
        list[str] | None, Option("--set", help="override one setting, e.g. graph.hops=3; repeatable")
    ] = None,
) -> None:
    """Fit a published split within a time budget; a slice of train is for choices, test is scored once."""
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
        Path, Option(envvar="RECSYS_BUNDLES", help="folder of bundles with the link `current`", **PATH)
    ],
    host: Annotated[str, Option(help="address to listen on; default: this machine only")] = ("127.0.0.1"),
    port: Annotated[int, Option(min=0, max=65535, help="0: any free port")] = 8000,
    workers: Annotated[int, Option(min=1, help="processes, which share the bundle's memory")] = 1,
    poll_seconds: Annotated[
        float,
        Option(
            envvar="RECSYS_POLL_SECONDS", min=0.01, max=86400, help="time between checks for a new `current`"
        ),
    ] = 1.0,
) -> None:
    """Serve over HTTP; a new `current` is verified, then loaded. RECSYS_TOKEN, if set, is required."""
    from pipelines.commands.serve import serve

    serve(bundles, host, port, workers, poll_seconds)


@releases.command("list")
def list_bundles(bundles: BundleFolder) -> None:
    """List all versions, newest first: sizes and measured recall of the search."""
    from pipelines.release.bundles import list_bundles

    for row in list_bundles(bundles):
        print(*row, sep="\t")


@releases.command("verify")
def verify_bundles(
    bundles: BundleFolder, version: Annotated[str | None, Argument(help="default: all")] = None
) -> None:
    """Verify versions in full, from checksums to answers; exit code 1 if one is damaged."""
    from pipelines.release.bundles import verify_bundles

    found = verify_bundles(bundles, version)
    for name, wrong in found:
        print(name, wrong or "ok", sep="\t")
    if any(wrong for _, wrong in found):
        raise typer.Exit(FAILED)


@releases.command("rollback")
def roll_back(
    bundles: BundleFolder,
    to: Annotated[str | None, Option(help="version; default: the newest older one that is intact")] = None,
) -> None:
    """Verify an earlier version and make it `current`; servers load it.

    Needs no config, so it works on a copy of the folder. MLflow's alias stays, and the next retrain may
    promote the same version again: where the config is, use `recsys rollback`.
    """
    from pipelines.commands.promote import rollback

    print(rollback(bundles, to))


@app.command()
def doctor() -> None:
    """Show what is missing for serving and for training, and which device would be used and why.

    Exit code 0 only if nothing is missing.
    """
    from pipelines.commands.doctor import report

    lines, complete = report()
    print("\n".join(lines))
    if not complete:
        raise typer.Exit(FAILED)


def main() -> None:
    """Run a command; each error becomes one message on standard error and an exit code."""
    terminated = False
    log.to_standard_error()

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True  # clean up as after Ctrl-C
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
        if terminated:
            stop(f"stopped by SIGTERM; {RESUMABLE}", TERMINATED)
        stop(f"interrupted; {RESUMABLE}", FAILED)
    except ModuleNotFoundError as error:
        if error.name == "annoy":  # recsys/index.py says what to install
            stop(str(error), FAILED)
        extra = "serve" if error.name in SERVING else "train"
        stop(f"{error}: this needs pip install '.[{extra}]' in the repository", FAILED)
    except Exception as error:
        if os.environ.get("RECSYS_TRACEBACK"):
            traceback.print_exc()
        if terminated:  # DuckDB ends a query that a signal interrupts with an error of its own
            stop(f"stopped by SIGTERM; {RESUMABLE}", TERMINATED)
        first_line = (str(error).splitlines() or ["no message"])[0]
        stop(f"{type(error).__name__}: {first_line} (RECSYS_TRACEBACK=1 shows where)", FAILED)


def stop(message: str, code: int) -> None:
    """Log an error and exit with the code."""
    log.LOGGER.error(f"recsys: {message}")
    sys.exit(code)


if __name__ == "__main__":
    main()
