"""tune: search the settings of a training by optuna on the validation fold; test is never read."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipelines.config import files, places
from pipelines.config.config import Config
from pipelines.config.digests import code_digest
from pipelines.config.errors import InputError
from pipelines.config.loading import with_settings
from pipelines.config.training import Spectral
from pipelines.data import folds
from pipelines.data.content import ItemContent, load_content
from pipelines.data.prepared import Prepared, read_prepared
from pipelines.tracking import live_run, log
from pipelines.training.budget import Clock
from pipelines.training.devices import choose_device, keep_freed_memory
from pipelines.training.judging import NewItemJudges, judge_fold, judges_of_new_items
from pipelines.training.selection import Chooser, Hooks, Selection
from pipelines.training.start import start
from pipelines.tuning import plots, trials
from pipelines.tuning.search_space import Setting, Space, read_space
from recsys.judge import Judge

LOGGER = logging.getLogger("recsys")

TRIALS = 20  # without --seconds and --trials
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 5, 1  # the first ones are never pruned
FEWEST = 5  # trials that importances need
OUT_OF_TIME = "out of time"
CODE = ("recsys", "pipelines/data", "pipelines/training", "pipelines/tuning")  # what a trial depends on


class OutOfTime(Exception):
    """The seconds of the search are used up."""


class Search(NamedTuple):
    """What all trials share."""

    config: Config
    space: Space
    study: Study
    folder: Path
    judge: Judge
    deadline: float  # of time.monotonic
    spectral: dict[Spectral, dict[str, Any]]  # what validation chose for each section `spectral`
    content: ItemContent | None  # of items
    judges: NewItemJudges | None  # of new items


def tune(
    config: Config,
    space_file: Path,
    seconds: float | None = None,
    n_trials: int | None = None,
) -> Path:
    """Search the space, or resume the search; return the folder of trials.csv, best.toml and the plot.

    The first trial is the configuration itself; TPE (Bergstra et al. 2011) draws the settings of the others,
    which are pruned where the median of earlier ones was better at the same epoch (Golovin et al. 2017).
    `n_trials` counts those of earlier calls too; after `seconds` the running epoch still ends. Equal data,
    configuration, space and code are one study, in tune.db; trials that were cut off are repeated first.
    Raises InputError: nothing prepared, a bad space, no trial has finished; BusyError: another at work.
    """
    deadline = np.inf if seconds is None else time.monotonic() + seconds
    wanted = (TRIALS if seconds is None else np.inf) if n_trials is None else n_trials
    space, prepared = read_space(space_file), read_prepared(config)
    name = study_name(config, prepared, space)
    folder = config.root / "tune" / name
    folder.mkdir(parents=True, exist_ok=True)
    device = choose_device(config.train.device)
    keep_freed_memory()
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    with (
        files.lock_folder(folder, "this very search"),
        _study(config, name) as study,
        live_run.LiveRun(config, folder, f"tune-{name}"),
    ):
        fold = folds.load_fold(config, "validation", config.evaluate.exclude_seen)
        judge = judge_fold(fold, device, config.evaluate)
        content = load_content(config, "validation", fold)
        judges = judges_of_new_items(fold, device, config.evaluate)
        search = Search(config, space, study, folder, judge, deadline, {}, content, judges)
        _start_or_resume(search)
        while _count_ended(study) < wanted and time.monotonic() < deadline:
            _run_trial(search)
            trials.write(folder, trial_rows(study), config.evaluate.select)
        trials.write(
            folder, trial_rows(study), config.evaluate.select
        )  # an earlier call may have been killed before this
        found = trials.best(trial_rows(study))
        if found is None:
            raise InputError(f"no trial of '{folder}' has finished: call again with more time, it goes on")
        plots.draw_search(trial_rows(study), importances(study, space), config.evaluate.select).save(folder)
        live_run.end_run(config, folder, "FINISHED", (trials.TABLE, trials.BEST, trials.PLOT))
    return folder


def study_name(config: Config, prepared: Prepared, space: Space) -> str:
    """Twelve digits of the SHA-256 of all that a trial's validation depends on, and of the space."""
    included: dict[str, Any] = dict.fromkeys(("seed", "space", "loss", "mining", "graph", "spectral"), True)
    included["train"] = set(type(config.train).model_fields) - {"checkpoint_seconds"}
    settings = config.model_dump_json(include=included | {"evaluate": {"select", "exclude_seen", "ks"}})
    searched = [f"{name} {setting.model_dump_json()}" for name, setting in sorted(space.items())]
    text = "\n".join((prepared.key, settings, torch.__version__, *searched))
    return code_digest(text, *CODE)[:12]


@contextmanager
def _study(config: Config, name: str) -> Iterator[Study]:
    """Open or create the study of this name in tune.db. Raises InputError: not a file of optuna."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # each trial logs a line here
    path = config.root / "tune.db"
    try:
        storage = optuna.storages.RDBStorage(places.sqlite_uri(path))
    except (SQLAlchemyError, RuntimeError) as error:  # the latter of another version's layout
        raise InputError(f"'{path}' cannot be opened: {str(error).splitlines()[0]}") from None
    try:
        pruner = MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_warmup_steps=UNPRUNED_EPOCHS + 1)
        yield optuna.create_study(
            storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
        )
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _start_or_resume(search: Search) -> None:
    """Queue the trials that a stopped process left unfinished; in a new study, the configuration itself."""
    study = search.study
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        _enqueue(study, trial)
        study.tell(trial.number, state=TrialState.FAIL)
        live_run.end_run(search.config, _trial_folder(search, trial.number), "KILLED")
        LOGGER.info(f"tune: trial {trial.number} was cut off: its settings are tried again")
    if not study.get_trials(deepcopy=False):
        base = {name: _configured_value(search.config, name) for name in search.space}
        # settings within the space also teach the sampler
        known = {name: value for name, value in base.items() if search.space[name].holds(value)}
        study.enqueue_trial(known, user_attrs={"base": True})
    else:
        best = trials.best(trial_rows(study))
        so_far = "" if best is None else f", the best {best.validation:.4f}"
        LOGGER.info(f"tune: going on with '{search.folder}': {_count_ended(study)} trials{so_far}")


def _enqueue(study: Study, trial: FrozenTrial | Trial) -> None:
    """Queue the same settings again."""
    base = bool(trial.user_attrs.get("base"))
    study.enqueue_trial(dict(trial.params), user_attrs={"base": True} if base else {})


def _count_ended(study: Study) -> int:
    """Number of trials that were not cut off."""
    outcomes = [trial.user_attrs.get("outcome") for trial in study.get_trials(deepcopy=False)]
    return sum(outcome not in (None, OUT_OF_TIME) for outcome in outcomes)


def _run_trial(search: Search) -> None:
    """Draw settings, train with them, report the result to the study, MLflow and the log."""
    study, select = search.study, search.config.evaluate.select
    # a sampler for each trial: a resumed search then draws the same settings as an unbroken one
    seed = np.random.SeedSequence((search.config.seed, len(study.get_trials(deepcopy=False))))
    study.sampler = TPESampler(seed=int(seed.generate_state(1)[0]))
    trial = study.ask()
    settings = _draw_settings(search, trial)
    trial.set_user_attr("settings", settings)
    label = f"tune: trial {trial.number}"
    LOGGER.info(f"{label}: {'base: ' if trial.user_attrs.get('base') else ''}{trials.describe(settings)}")
    outcome, status = _outcome(search, trial, label)
    live_run.end_run(search.config, _trial_folder(search, trial.number), status)
    trial.set_user_attr("outcome", outcome)
    scores = _scores_by_epoch(study, trial.number)
    if outcome == trials.FINISHED:
        study.tell(trial, trial.user_attrs["model"])
    elif outcome == OUT_OF_TIME:  # says nothing about the settings
        study.tell(trial, state=TrialState.FAIL)
    else:  # the sampler learns from pruned trials, not from failed ones
        study.tell(trial, state=TrialState.PRUNED)
    found = trial.user_attrs.get("model", max(scores.values(), default=None))
    score = f", {select} {found:.4f}" if found is not None else ""
    best = trials.best(trial_rows(study))
    so_far = "" if best is None else f" (best so far: {best.validation:.4f}, trial {best.trial})"
    LOGGER.info(f"{label}: {outcome}{score}{so_far}")


def _outcome(search: Search, trial: Trial, label: str) -> tuple[str, str]:
    """Train with the settings of the trial; return its outcome, and its status in MLflow."""
    try:
        _train(search, trial, label)
    except optuna.TrialPruned:
        return f"pruned after epoch {len(_scores_by_epoch(search.study, trial.number))}", "KILLED"
    except OutOfTime:
        _enqueue(search.study, trial)
        return OUT_OF_TIME, "KILLED"
    except InputError as error:
        return f"{trials.INVALID}: {error}", "FAILED"
    except (FloatingPointError, MemoryError, torch.OutOfMemoryError) as error:
        return f"failed: {str(error) or type(error).__name__}".splitlines()[0], "FAILED"
    except Exception as error:
        if trial.user_attrs.get("base"):  # every trial would fail
            raise
        return f"failed: {type(error).__name__}: {error}".splitlines()[0], "FAILED"
    return trials.FINISHED, "FINISHED"


def _draw_settings(search: Search, trial: Trial) -> dict[str, Any]:
    """The settings of the trial; the base trial takes the configured ones, even outside of the space."""
    base = bool(trial.user_attrs.get("base"))
    settings: dict[str, Any] = {}
    for name, setting in search.space.items():
        configured = _configured_value(search.config, name)
        if not base or setting.holds(configured):
            settings[name] = _suggest(trial, name, setting)
        if base:
            settings[name] = configured
    return settings


def _suggest(trial: Trial, name: str, setting: Setting) -> Any:
    if setting.choices is not None:
        return trial.suggest_categorical(name, setting.choices)
    low, high, step = setting.low, setting.high, setting.step
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, step=int(step or 1), log=setting.log)
    return trial.suggest_float(name, low, high, step=step, log=setting.log)


def _configured_value(config: Config, name: str) -> Any:
    section, _, key = name.partition(".")
    value = getattr(getattr(config, section), key)
    return list(value) if isinstance(value, tuple) else value


def _train(search: Search, trial: Trial, label: str) -> None:
    """Train on the validation fold as `train` does; report each epoch to the study and to MLflow.

    Raises optuna.TrialPruned, OutOfTime, InputError (settings that do not go together), FloatingPointError.
    """
    base = bool(trial.user_attrs.get("base"))
    config = search.config if base else with_settings(search.config, trial.user_attrs["settings"])
    metric = f"validation.{config.evaluate.select}"
    folder = _trial_folder(search, trial.number)
    folder.mkdir(parents=True, exist_ok=True)

    with (
        log.relabel("train: ", f"{label}: "),
        live_run.LiveRun(config, folder, f"trial-{trial.number}") as tracked,
    ):
        live_run.set_parent(config, folder, search.folder)

        def on_epoch(row: dict[str, Any], number: int) -> None:
            tracked.log_metrics(row, number)
            trial.report(row[metric], number)
            if time.monotonic() > search.deadline:
                raise OutOfTime
            if trial.should_prune() and not base:
                raise optuna.TrialPruned

        judge = search.judge
        hooks = Hooks(
            lambda settings, spectrum: start(
                config, judge.data, settings, "validation", spectrum, search.content
            ),
            on_epoch=on_epoch,
            content=search.content,
            judges=search.judges,
        )
        everyone = len(judge.users)  # in all trials: other users would give other scores
        selection = Selection(spectral=search.spectral.get(config.spectral, {}), judged=everyone)
        clock = Clock(config.train.seconds, judge.data.user.device)
        chosen = Chooser(config, judge, clock, hooks, selection).choose()
        search.spectral[config.spectral] = selection.spectral
        if not selection.trained and selection.left_out:  # else the spectrum would speak for these settings
            raise FloatingPointError("; ".join(f"{name}: {why}" for name, why in selection.left_out.items()))
        trial.set_user_attr("model", chosen.score)


def _trial_folder(search: Search, number: int) -> Path:
    return search.folder / "trials" / str(number)


def _scores_by_epoch(study: Study, number: int) -> dict[int, float]:
    """The validation score after each epoch of a trial."""
    return study.get_trials(deepcopy=False)[number].intermediate_values


def _best_epoch(scores: dict[int, float]) -> int:
    return max(sorted(scores), key=lambda epoch: scores[epoch], default=0)


def trial_rows(study: Study) -> list[trials.Row]:
    """A row for each trial that has started."""
    made = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:
            continue
        scores, attributes = trial.intermediate_values, trial.user_attrs
        made.append(
            trials.Row(
                trial.number,
                attributes.get("outcome", "interrupted"),
                bool(attributes.get("base")),
                attributes.get("model", max(scores.values(), default=None)),
                _best_epoch(scores),
                len(scores),
                None if trial.duration is None else round(trial.duration.total_seconds(), 1),
                attributes.get("settings", trial.params),
            )
        )
    return made


def importances(study: Study, space: Space) -> dict[str, float]:
    """How much each setting mattered (PED-ANOVA, Watanabe et al. 2023); empty with too few trials."""
    finished = study.get_trials(states=[TrialState.COMPLETE])
    whole = [
        trial for trial in finished if set(trial.params) == set(space)
    ]  # the base may be outside of the space
    if len(whole) < FEWEST or len({trial.value for trial in whole}) == 1:
        return {}
    fresh = optuna.create_study(direction="maximize")
    fresh.add_trials(whole)
    return optuna.importance.get_param_importances(fresh)
