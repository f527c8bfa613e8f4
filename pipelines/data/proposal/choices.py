"""Assign columns to roles: the only likely column, else a choice for the user."""

import re
from collections.abc import Sequence

import duckdb

from pipelines.config.data import Relation
from pipelines.config.places import duckdb_pattern
from pipelines.data import columns, times
from pipelines.data.guesses import AS_TEXT
from pipelines.data.proposal import roles
from pipelines.data.proposal.profile import Profile, titles_per_item
from pipelines.data.proposal.toml import Proposal, toml
from pipelines.data.sql import literal

MOST_CHOICES = 10  # columns listed at most
PARTS = {"train", "validation", "test"}
# words in kinds of events that undo others
UNDOING = ("remove", "return", "refund", "cancel", "delete", "dislike", "unlike", "uninstall")


def assign_roles(
    con: duckdb.DuckDBPyConnection, proposal: Proposal, relation: Relation, found: Profile
) -> bool:
    """Set the roles in section source, and split.kind; False if the columns have no names."""
    if _has_no_header(proposal, relation, found):
        return False
    _assign_ids(proposal, found)
    _assign_time(proposal, found)
    _assign_weight(proposal, found)
    _assign_event(proposal, found)
    _assign_split(proposal, found)
    _assign_title(con, proposal, relation, found)
    return True


def _likeliest(role: str, found: Profile, suitable: Sequence[str]) -> tuple[list[str], list[str]]:
    """The likeliest of the columns with a suitable type, and those with less likely names."""
    ranked = roles.candidates(role, list(suitable))
    named = [one for one in ranked if one.rank < roles.NAME_PART]
    best = [one.name for one in named if one.rank == named[0].rank]
    return best, [one.name for one in ranked if one not in named]


def _assign_ids(proposal: Proposal, found: Profile) -> None:
    suitable = [name for name, type_ in found.types.items() if type_ in columns.IDS]
    ranked = {role: _likeliest(role, found, suitable) for role in ("user", "item")}
    assigned = [best[0] for best, _ in ranked.values() if len(best) == 1]
    for role, (best, less_likely) in ranked.items():
        if len(best) == 1:
            proposal.set_key("source", role, best[0])
            continue
        options = (best or less_likely or [name for name in suitable if name not in assigned])[:MOST_CHOICES]
        counts = {name: min(found.different[name], found.filled[name]) for name in options}
        shown = ", ".join(f"{toml(name)} (about {count:,} values)" for name, count in counts.items())
        why = "several columns are likely" if best else "no column has a likely name"
        proposal.ask("source", role, f"{why}: {shown or 'there is no column of ids'}", options or [""])


def _has_no_header(proposal: Proposal, relation: Relation, found: Profile) -> bool:
    """Whether the header line of a csv looks like values; then ask the user for names."""
    names = found.heading
    is_named = any(_likeliest(role, found, names)[0] for role in ("user", "item"))
    if is_named or not any(re.fullmatch(r"[\d.:/TZ +-]+", name) for name in names):
        return False
    numbered = ", ".join(literal(f"column_{place}") for place, _ in enumerate(names, 1))
    why = (
        "there seems to be no header. Name the columns in this query, instead of files, then user, item, time"
    )
    options = f"header = false, {AS_TEXT}, names = [{numbered}]"
    query = f"select * from read_csv({literal(duckdb_pattern(relation.files or ''))}, {options})"
    proposal.ask("source", "query", why, [query])
    for place, key in enumerate(("user", "item", "time"), 1):
        proposal.suggest("source", key, f"column_{place}")
    return True


def _unassigned(proposal: Proposal, names: Sequence[str]) -> list[str]:
    """The columns without a role."""
    taken = set(map(str, proposal.settings["source"].values()))
    return [name for name in names if name not in taken]


def _assign_time(proposal: Proposal, found: Profile) -> None:
    read = _unassigned(proposal, [name for name, one in found.times.items() if one.formats])
    best, less_likely = _likeliest("time", found, read)
    if not best and not less_likely:
        best = read
    if len(best) != 1:
        if best or less_likely:
            why = f"{'several columns' if best else 'only columns with other names'} hold times"
            proposal.ask("source", "time", why, best or less_likely)
        elif named := [one.name for one in roles.candidates("time", list(found.times))]:
            such = ", ".join(f"{toml(name)}, such as {found.times[name].example}" for name in named)
            proposal.ask("source", "time", f"no known format reads {such}", named)
            proposal.suggest("source", "time_format", "%d.%m.%Y %H:%M")
        return  # without a time column, _assign_split explains the options
    (name,) = best
    one = found.times[name]
    proposal.set_key("source", "time", name)
    if len(one.formats) > 1:
        why = f"{len(one.formats)} formats read all of {toml(name)}: {one.example}"
        proposal.ask("source", "time_format", why, one.formats)
    elif one.formats[0] != times.ISO:
        proposal.set_key("source", "time_format", one.formats[0])
    if one.unread:
        proposal.add_comment("source", f"{one.unread:,} values of it are no such time, such as {one.example}")


def _assign_weight(proposal: Proposal, found: Profile) -> None:
    best, _ = _likeliest("weight", found, _unassigned(proposal, list(found.filled)))
    numbers, _ = _likeliest("weight", found, _unassigned(proposal, sorted(found.numbers)))
    if len(numbers) == 1 and numbers[0] in best:
        proposal.set_key("source", "weight", numbers[0])
    elif best:
        why = (
            "several columns may say how much"
            if len(best) > 1
            else "its name is likely, but not all its values are numbers"
        )
        proposal.ask("source", "weight", f"{why}; without it each row has weight 1", best)


def _assign_event(proposal: Proposal, found: Profile) -> None:
    several = [name for name, kinds in found.kinds.items() if len(kinds) > 1]
    best, _ = _likeliest("event", found, _unassigned(proposal, several))
    if not best:
        return
    kinds = found.kinds[best[0]]
    weights = {kind: 0.0 if any(word in kind.lower() for word in UNDOING) else 1.0 for kind in kinds}
    if len(best) == 1 and "weight" not in proposal.settings["source"]:
        why = "Weight of each kind of event: raise those that mean more; 0.0 leaves a kind out."
        proposal.set_key("source", "event", best[0], why)
        proposal.set_key("source", "event_weights", weights)
        return
    weight = proposal.settings["source"].get("weight")
    why = (
        f"{', '.join(map(toml, best))} may hold the kind of event ({', '.join(map(toml, kinds))}), and "
        f"{toml(weight)} is the weight: name weight or event, not both"
        if weight is not None
        else "several columns may hold the kind of event; event_weights holds the weight of each kind"
    )
    proposal.ask("source", "event", why, best)
    proposal.suggest("source", "event_weights", weights)


def _assign_split(proposal: Proposal, found: Profile) -> None:
    """Set a predefined split if a column holds one; ask if there is nothing to split by."""
    best, _ = _likeliest("split", found, _unassigned(proposal, list(found.kinds)))
    exact = [name for name in best if {"train", "test"} <= set(found.kinds[name]) <= PARTS]
    other = [name for name in best if name not in exact]
    if len(exact) == 1:
        proposal.set_key("source", "split", exact[0])
        why = "The log has its own split, which may leak. For a split by time, remove both lines."
        proposal.set_key("split", "kind", "predefined", why)
    elif exact:
        proposal.ask("source", "split", "several columns hold train and test", exact)
    for name in other:
        kinds = ", ".join(map(toml, found.kinds[name]))
        proposal.add_comment(
            "source",
            f"{toml(name)} is named like a split, but holds {kinds}: to use it, map them to "
            "'train', 'validation' and 'test' in a query",
        )
    undecided = {"source.time", "source.split"} & set(proposal.choices)
    if not exact and not undecided and "time" not in proposal.settings["source"]:
        why = (
            "no column holds times, and none holds train and test. A log is split by time; the files of a "
            "published split are for recsys bench"
        )
        proposal.ask("source", "time", why)


def _assign_title(
    con: duckdb.DuckDBPyConnection, proposal: Proposal, relation: Relation, found: Profile
) -> None:
    item = proposal.settings["source"].get("item")
    suitable = [name for name, type_ in found.types.items() if type_ in columns.WORDS]
    best, _ = _likeliest("title", found, _unassigned(proposal, suitable))
    best = [name for name in best if found.different[name] > 1]
    if item is not None and len(best) == 1 and titles_per_item(con, relation, best[0], str(item)) <= 2:
        proposal.set_key("source", "title", best[0])
