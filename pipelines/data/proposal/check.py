"""check: propose a configuration for the files of a log, and test it with prepare.

What only the user can know (which of two columns, days or months first) is asked, never guessed.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any, NamedTuple

import duckdb

from pipelines.config.config import Config
from pipelines.config.data import Relation, Source
from pipelines.config.errors import InputError
from pipelines.data import contracts
from pipelines.data.database import scratch_database
from pipelines.data.prepare import prepare
from pipelines.data.proposal import choices
from pipelines.data.proposal.profile import profile_columns
from pipelines.data.proposal.toml import Proposal, toml
from pipelines.data.source import read_log
from pipelines.data.spelling import AlikeIds, find_alike_ids
from pipelines.data.sql import read_sql
from pipelines.tracking import log

WINDOWS = 56.0  # default days of the validation and test windows together
OUTLIER = 10  # a user with this many times the events of the 99th percentile is reported


class LogReport(NamedTuple):
    """What the contracts found in the log."""

    report: contracts.Report
    activity: tuple[Any, ...]  # of sql/findings/activity.sql
    alike: AlikeIds | None


def check(files: Sequence[str]) -> Proposal:
    """Propose a configuration for a file or a glob. Raises InputError: the files cannot be read."""
    if len(files) > 1:
        raise InputError(
            f"{len(files)} files, the first '{files[0]}': name one, or quote a pattern such as 'orders-*.csv'"
        )
    try:
        files[0].encode()
    except UnicodeEncodeError:
        raise InputError(f"{files[0]!r}: its name is not UTF-8, which a TOML file is: rename it") from None
    relation = {"files": files[0]}
    while True:
        try:
            return _propose(Relation.model_validate(relation))
        except InputError as error:  # if the message names an encoding, try it
            named = re.search(r"encoding = '([\w-]+)'", str(error))
            if named is None or "encoding" in relation:
                raise
            relation["encoding"] = named[1]


def _propose(relation: Relation) -> Proposal:
    proposal = Proposal()
    with _scratch(relation) as con:
        found = profile_columns(con, relation)
        rows, listed = f"{found.rows:,} rows", ", ".join(map(toml, found.types))
        proposal.add_comment("", f"Proposed by recsys check, which found {rows}; columns {listed}")
        proposal.set_key("source", "files", relation.files)
        if relation.encoding is not None:
            why = "The files are not UTF-8: check whether names and texts are right"
            proposal.set_key("source", "encoding", relation.encoding, why)
        is_named = choices.assign_roles(con, proposal, relation, found)
    if is_named and {"user", "item"} <= set(proposal.settings["source"]):
        _propose_from_log(proposal, relation)
    if proposal.choices:
        proposal.add_comment(
            "", "Not tested yet: decide what is marked CHOOSE, then run recsys prepare with this file"
        )
    else:
        _try_out(proposal)
    return proposal


@contextmanager
def _scratch(relation: Relation) -> Iterator[duckdb.DuckDBPyConnection]:
    """A scratch database as in prepare; its folder is removed."""
    with tempfile.TemporaryDirectory(prefix="recsys-check-") as root:
        source = {"files": relation.files, "split": "part"}  # only the root matters
        config = Config.model_validate({"root": root, "source": source, "split": {"kind": "predefined"}})
        with scratch_database(config) as (_, con):
            yield con


def _propose_from_log(proposal: Proposal, relation: Relation) -> None:
    """Read the log, report its size, and propose settings for missing ids, returns and windows."""
    source = Source.model_validate(proposal.settings["source"])
    with _scratch(relation) as con:
        try:
            notes = read_log(con, source, None).notes
        except InputError as error:
            proposal.ask("source", "query", f"the log is refused: {error}", [])
            return
        query = con.execute(read_sql("findings/facts"))
        names = [column[0] for column in query.description or []]
        facts = dict(zip(names, query.fetchall()[0], strict=True))
    proposal.add_comment("", f"{facts['user_count']:,} users, {facts['item_count']:,} items")
    for note in notes:
        proposal.add_comment("", note)
    _propose_ids_and_returns(proposal, facts)
    if facts["first_at"] is not None:
        proposal.add_comment("", f"from {facts['first_at']} to {facts['last_at']} (UTC)")
        _propose_windows(proposal, (facts["last_at"] - facts["first_at"]).total_seconds() / 86_400)


def _propose_ids_and_returns(proposal: Proposal, facts: dict[str, Any]) -> None:
    rows, missing, negative = (facts[name] for name in ("log_rows", "missing", "negative"))
    if missing:
        why = (
            f"{missing:,} rows ({missing / rows:.1%}) have no user ({facts['no_user']:,}) or no item "
            f"({facts['no_item']:,}): 'refuse' stops, 'drop' leaves them out."
        )
        proposal.set_key("source", "missing_ids", "drop", why)
    if negative:
        why = (
            f"{negative:,} rows ({negative / rows:.1%}) have a weight below 0: 'refuse' stops, 'net' "
            f"subtracts them, which removes {facts['netted_pairs']:,} pairs of user and item, 'drop' leaves "
            "the rows out and keeps these pairs."
        )
        proposal.set_key("source", "returns", "net", why)
    if facts["weightless"]:
        proposal.add_comment("source", f"{facts['weightless']:,} rows have weight 0, which is no interaction")


def _propose_windows(proposal: Proposal, days: float) -> None:
    """Propose shorter windows if the default ones leave too little to fit."""
    if "split" in proposal.settings or days >= 2 * WINDOWS or not days:
        return
    window = float(f"{days / 5:.3g}")
    why = (
        f"The log is {days:,.1f} days long: the default validation and test windows of 28 days would "
        "leave less than half of it for fitting. A fifth of it each:"
    )
    proposal.set_key("split", "test_days", window, why)
    proposal.set_key("split", "validation_days", window)


def _try_out(proposal: Proposal) -> None:
    """Run prepare with the proposed settings, and add what it and the contracts found."""
    seen = list[LogReport]()

    def examine(con: duckdb.DuckDBPyConnection) -> None:
        report = contracts.examine(con, config)
        activity = con.execute(read_sql("findings/activity")).fetchall()[0]
        offending = f"({read_sql('offending/spelling')})"
        seen.append(LogReport(report, activity, find_alike_ids(con, config.source, offending)))

    with tempfile.TemporaryDirectory(prefix="recsys-check-") as root:
        config = Config.model_validate({"root": root, **proposal.settings})
        refused = ""
        try:
            with log.silence():
                prepare(config, examine)
        except InputError as error:
            refused = str(error)
    for log_report in seen:
        _add_contract_findings(proposal, log_report)
    if refused:
        proposal.add_comment("", f"CHOOSE: tested, and refused by prepare: {refused}")
        proposal.choices.append("what prepare refuses")
    elif not proposal.choices:
        proposal.add_comment("", "Tested: prepare accepts it")


def _add_contract_findings(proposal: Proposal, log_report: LogReport) -> None:
    measures = {one.measure: one for one in log_report.report.measures}
    if log_report.alike is not None:
        for line in log_report.alike.lines:
            proposal.add_comment("source", line)
        proposal.add_comment("source", f"This query merges them, instead of {log_report.alike.replaced}:")
        proposal.suggest("source", "query", log_report.alike.query)
    user, events, active, share = log_report.activity
    if events is not None and events >= OUTLIER * active:
        proposal.add_comment(
            "contracts",
            f"User {user!r} has {events:,} events ({share:.1%} of all); 99 users in 100 have {active:,} or "
            "fewer: a test account, a bot, a cash register? Leave it out by a query; to refuse others:",
        )
        proposal.suggest("contracts", "max_events_per_user", OUTLIER * active)
    shown = {
        "duplicate_share": "of the rows repeat another in every column read; each counts",
        "midnight_share": "of the times are at midnight (UTC): was the time of day lost?",
        "empty_days": "of the days between the first and the last event have no events",
    }
    for name, text in shown.items():
        value = measures[name].value if name in measures else None
        if value and value >= 0.01:
            proposal.add_comment("contracts", f"{value:.1%} {text}")
    for one in log_report.report.measures:
        if not one.holds and one.value is not None:
            why = (
                f"{one.measure} = {one.value:.4g}, allowed {one.allowed}: correct the log or raise the bound"
            )
            proposal.ask("contracts", one.key, why, [ceil(one.value * 100) / 100])
