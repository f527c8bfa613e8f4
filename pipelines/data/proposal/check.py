"""check: the configuration that would read some files, tried by prepare itself.

What only the shop knows (which of two columns, days or months first) is left to a person, never guessed.
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
from pipelines.data.proposal.profile import profile
from pipelines.data.proposal.toml import Proposal, toml
from pipelines.data.source import read_log
from pipelines.data.spelling import Alike, alike_ids
from pipelines.data.sql import read_sql
from pipelines.tracking import log

WINDOWS = 56.0  # days of the two windows of a split by time, by default
OUTLIER = 10  # times the events of the user at the 99th percentile


class Tried(NamedTuple):
    """What the contracts measured of the log as it is read."""

    report: contracts.Report
    activity: tuple[Any, ...]  # most active user, their events, those of one in a hundred, their share
    alike: Alike | None


def check(files: Sequence[str]) -> Proposal:
    """Propose a configuration for a file or a glob. Raises InputError: they cannot be read at all."""
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
            return _proposed(Relation.model_validate(relation))
        except InputError as error:  # a message that says which encoding to write is followed
            named = re.search(r"encoding = '([\w-]+)'", str(error))
            if named is None or "encoding" in relation:
                raise
            relation["encoding"] = named[1]


def _proposed(relation: Relation) -> Proposal:
    proposal = Proposal()
    with _scratch(relation) as con:
        found = profile(con, relation)
        rows, listed = f"{found.rows:,} rows", ", ".join(map(toml, found.types))
        proposal.say("", f"Proposed by recsys check; what it found: {rows}; columns {listed}")
        proposal.put("source", "files", relation.files)
        if relation.encoding is not None:
            why = "The files are no UTF-8: look whether names and texts are right so"
            proposal.put("source", "encoding", relation.encoding, why)
        is_named = choices.choose(con, proposal, relation, found)
    if is_named and {"user", "item"} <= set(proposal.settings["source"]):
        _facts(proposal, relation)
    if proposal.choices:
        proposal.say("", "Not tried yet: complete what is marked CHOOSE, then run recsys prepare with it")
    else:
        _try(proposal)
    return proposal


@contextmanager
def _scratch(relation: Relation) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database set up as prepare's, in a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="recsys-check-") as root:
        source = {"files": relation.files, "split": "part"}  # any that is valid: no more than its root counts
        config = Config.model_validate({"root": root, "source": source, "split": {"kind": "predefined"}})
        with scratch_database(config) as (_, con):
            yield con


def _facts(proposal: Proposal, relation: Relation) -> None:
    """Read the log, state its size, and propose what the checks of ids and weights need."""
    source = Source.model_validate(proposal.settings["source"])
    with _scratch(relation) as con:
        try:
            notes = read_log(con, source, None).notes
        except InputError as error:
            proposal.leave("source", "query", f"the log is refused as it is: {error}", [])
            return
        query = con.execute(read_sql("findings/facts"))
        names = [column[0] for column in query.description or []]
        facts = dict(zip(names, query.fetchall()[0], strict=True))
    proposal.say("", f"{facts['user_count']:,} users, {facts['item_count']:,} items")
    for note in notes:
        proposal.say("", note)
    _ids_and_returns(proposal, facts)
    if facts["first_at"] is not None:
        proposal.say("", f"from {facts['first_at']} to {facts['last_at']} (UTC)")
        _windows(proposal, (facts["last_at"] - facts["first_at"]).total_seconds() / 86_400)


def _ids_and_returns(proposal: Proposal, facts: dict[str, Any]) -> None:
    rows, missing, negative = (facts[name] for name in ("log_rows", "missing", "negative"))
    if missing:
        why = (
            f"{missing:,} rows ({missing / rows:.1%}) have no user ({facts['no_user']:,}) or no item "
            f"({facts['no_item']:,}): 'refuse' stops there, 'drop' leaves them out."
        )
        proposal.put("source", "missing_ids", "drop", why)
    if negative:
        why = (
            f"{negative:,} rows ({negative / rows:.1%}) have a weight below 0: 'refuse' stops there, 'net' "
            f"takes them off, which leaves nothing of {facts['netted_pairs']:,} pairs of user and item, "
            "'drop' leaves the rows out and keeps these pairs."
        )
        proposal.put("source", "returns", "net", why)
    if facts["weightless"]:
        proposal.say("source", f"{facts['weightless']:,} rows have weight 0, which is no interaction")


def _windows(proposal: Proposal, days: float) -> None:
    """Windows in proportion, where the default ones would leave too little to learn from."""
    if "split" in proposal.settings or days >= 2 * WINDOWS or not days:
        return
    window = float(f"{days / 5:.3g}")
    why = (
        f"The log is {days:,.1f} days long: the default windows of 28 days, to choose and to test by, would "
        "leave less than half of it to learn from. A fifth of it each:"
    )
    proposal.put("split", "test_days", window, why)
    proposal.put("split", "validation_days", window)


def _try(proposal: Proposal) -> None:
    """Run prepare with the proposed settings, and say what it and the contracts found."""
    seen = list[Tried]()

    def examine(con: duckdb.DuckDBPyConnection) -> None:
        report = contracts.examine(con, config)
        activity = con.execute(read_sql("findings/activity")).fetchall()[0]
        offending = f"({read_sql('offending/spelling')})"
        seen.append(Tried(report, activity, alike_ids(con, config.source, offending)))

    with tempfile.TemporaryDirectory(prefix="recsys-check-") as root:
        config = Config.model_validate({"root": root, **proposal.settings})
        refused = ""
        try:
            with log.silenced():
                prepare(config, examine)
        except InputError as error:
            refused = str(error)
    for tried in seen:
        _say_contracts(proposal, tried)
    if refused:
        proposal.say("", f"CHOOSE: tried, and refused by prepare: {refused}")
        proposal.choices.append("what prepare refuses")
    elif not proposal.choices:
        proposal.say("", "Tried: prepare goes through with it")


def _say_contracts(proposal: Proposal, tried: Tried) -> None:
    measures = {one.measure: one for one in tried.report.measures}
    if tried.alike is not None:
        for line in tried.alike.lines:
            proposal.say("source", line)
        proposal.say("source", f"In lower case they are one; in place of {tried.alike.place}:")
        proposal.offer("source", "query", tried.alike.query)
    user, events, active, share = tried.activity
    if events is not None and events >= OUTLIER * active:
        proposal.say(
            "contracts",
            f"User {user!r} has {events:,} events ({share:.1%} of all); 99 users in 100 have {active:,} or "
            "fewer: a test account, a bot, a till? Leave it out by a query; this bound refuses the next one:",
        )
        proposal.offer("contracts", "max_events_per_user", OUTLIER * active)
    shown = {
        "duplicate_share": "of the rows repeat another in every column that is read; each counts",
        "midnight_share": "of the times are at midnight (UTC): dates whose time of day was lost?",
        "empty_days": "of the days between the first event and the last are without any",
    }
    for name, text in shown.items():
        value = measures[name].value if name in measures else None
        if value and value >= 0.01:
            proposal.say("contracts", f"{value:.1%} {text}")
    for one in tried.report.measures:
        if not one.holds and one.value is not None:
            why = f"{one.measure} = {one.value:.4g}, allowed {one.allowed}: mend the log, or raise the bound"
            proposal.leave("contracts", one.key, why, [ceil(one.value * 100) / 100])
