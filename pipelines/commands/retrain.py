"""retrain: the whole chain, from the log to the current bundle, as a scheduler calls it each night."""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.commands.evaluate import evaluate
from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.errors import BusyError, DataError, InputError
from pipelines.config.secrets import mask_secrets
from pipelines.data import contracts, history
from pipelines.data.prepare import prepare
from pipelines.release import export, gate, promotion
from pipelines.release.gate import Verdict
from pipelines.report import page
from pipelines.tracking import live_run, store, upload
from pipelines.tracking.stages import run_stage
from pipelines.training.train import train
from recsys.files import hold_lock, write_text

LOGGER = logging.getLogger("recsys")

LOCK, STAGES = "retrain.lock", "stages.json"
STATUS: dict[str, history.Status] = {"pass": "promoted", "unchanged": "unchanged", "fail": "not_promoted"}


class Outcome(NamedTuple):
    """Run folder, metrics and verdict of a retrain."""

    run: Path
    result: dict[str, Any]
    verdict: Verdict


class _StopAfterContracts(Exception):
    """Ends the prepare of a dry run."""


def release(config: Config, run: Path) -> None:
    """Write the bundle and register it with MLflow as the challenger, unless it is registered."""
    store.check_owner(config)
    export.stage(config, run)
    upload.upload_run(config, run)


def retrain(config: Config) -> Outcome:
    """Prepare, train, export, evaluate, ask the gate and promote; valid results of earlier calls are reused.

    Raises DataError: a check, a contract or the certificate is broken; BusyError: another retrain is running;
    InputError as the stages do. After any error the champion stays current.
    """
    with alone(config.root):
        promotion.finish(config)
        number = history.start_run(config, store.git_revision())
        known: dict[str, Any] = {}
        try:
            outcome, stages = _chain(config, number, known)
        except BaseException as error:
            record_error(config, number, error, known)
            if "run" in known:
                live_run.end_run(config, config.runs / known["run"], "FAILED")
            raise
        record_end(config, number, STATUS[outcome.verdict.verdict], known)
        try:
            write_text(outcome.run / STAGES, json.dumps(_merged(outcome.run, stages), indent=1))
            page.write(outcome.run)
        except Exception as error:  # the release stands; `recsys report` writes the page again
            LOGGER.warning(
                f"retrain: WARNING: no page about '{outcome.run}': {type(error).__name__}: {error}"
            )
        upload.upload_all(config)
    return outcome


def record_end(config: Config, number: int, status: history.Status, known: dict[str, Any]) -> None:
    """Record how a run of any kind ended in the history; if that fails, only warn: the release stands."""
    try:
        history.finish_run(config, number, status, **known)
    except InputError as error:
        LOGGER.warning(f"history: WARNING: {error}; the run ended as {status}")


def record_error(config: Config, number: int, error: BaseException, known: dict[str, Any]) -> None:
    """Record that an error ended the run; its first line becomes the detail of `known`."""
    known["detail"] = mask_secrets((str(error).splitlines() or [type(error).__name__])[0])
    interrupted = isinstance(error, KeyboardInterrupt)
    status: history.Status = "bad_data" if isinstance(error, DataError) else "failed"
    record_end(config, number, "interrupted" if interrupted else status, known)


def dry_run(config: Config) -> contracts.Report:
    """Check the log's contracts without training or writing anything. Raises DataError: a failed check."""
    existed, found = config.root.exists(), list[contracts.Report]()

    def examine(con: Any) -> None:
        found.append(contracts.examine(con, config))
        raise _StopAfterContracts

    with suppress(_StopAfterContracts):
        prepare(config, examine)
    if not existed:
        with suppress(OSError):
            config.root.rmdir()
    return found[0]


def _chain(config: Config, number: int, known: dict[str, Any]) -> tuple[Outcome, list[dict[str, Any]]]:
    """All stages up to promotion: the outcome and a record of each; fills `known` for the history."""
    stages = list[dict[str, Any]]()
    with run_stage("prepare", stages) as record:
        prepared = prepare(config, lambda con: contracts.examine_and_record(con, config, number))
        record.rows, record.reused = prepared.counts["log.rows"], prepared.reused
    known["prepared_key"] = prepared.key
    with run_stage("train", stages) as record:
        runs = set(config.runs.glob("[!.]*"))
        run = train(config)
        record.rows, record.reused = prepared.counts["test.pairs"], run in runs
    known["run"] = run.name
    if files.read_json(run / "train.json")["prepared_key"] != prepared.key:
        raise InputError(f"'{config.database}' was prepared again by another process: run retrain again")
    contracts.write_report(config, run / "contracts.json")
    with run_stage("export", stages) as record:
        bundles = set(config.bundles.glob("[!.]*"))
        bundle = export.stage(config, run)
        record.reused = bundle in bundles
    known["bundle"] = bundle.name
    with run_stage("evaluate", stages) as record:
        before = files.read_json(run / "metrics.json")
        result = evaluate(config, run)
        record.rows, record.reused = result["users"], result == before
    upload.upload_run(config, run)  # registers the challenger
    with run_stage("gate", stages) as record:
        verdict = gate.decide(config, run)
        record.reused = verdict.verdict == "unchanged"
    known |= _figures(verdict)
    if verdict.verdict == "pass":
        with run_stage("promote", stages):
            promotion.promote(config, run)
    else:
        promotion.prune(config)  # else challengers that are refused each night would fill the disk
    return Outcome(run, result, verdict), stages


def _figures(verdict: Verdict) -> dict[str, Any]:
    """The verdict's columns of the history."""
    found = verdict.comparison
    known: dict[str, Any] = {"metric": verdict.metric}
    if found is not None:
        known |= {"champion": found.champion, "challenger": found.challenger, "low": found.least}
    if not verdict.holds:
        known["detail"] = gate.why(verdict)
    return known


def _merged(run: Path, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of the stages; a stage that was reused or skipped keeps its record of when it was done."""
    before = {one["stage"]: one for one in files.read_json(run / STAGES) or []}
    now = {one["stage"]: one for one in stages if one["status"] != "reused" or one["stage"] not in before}
    return list((before | now).values())


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the root's lock file for this process; the kernel frees it if the process is killed.

    Raises BusyError if another process has it, InputError if the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(root / LOCK, "a+", encoding="utf-8") as file:
            file.seek(0)
            holder = file.read() or "just started"
    except OSError as error:
        raise InputError(f"root = '{root}' cannot be written: {error}") from None
    busy = BusyError(f"'{root}': another retrain is at work: {holder}")
    with hold_lock(root / LOCK, busy=busy) as handle:
        left = os.pread(handle, 1000, 0).decode(errors="replace")
        if left:
            LOGGER.info(
                f"retrain: the lock of {left} was left behind: it was killed; going on from where it was"
            )
        started = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        holder = f"process {os.getpid()} on {socket.gethostname()}, started {started}"
        os.ftruncate(handle, 0)
        os.pwrite(handle, holder.encode(), 0)  # in place: a new file would not be locked
        try:
            yield
        finally:
            os.ftruncate(handle, 0)  # the root itself may have moved meanwhile
