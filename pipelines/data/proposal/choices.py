"""Which column takes which role: one that is the only likely one, else a choice that is left to a person."""

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

MOST_CHOICES = 10  # columns that are listed
PARTS = {"train", "validation", "test"}
# kinds of events by which something is given back
TAKEN_BACK = ("remove", "return", "refund", "cancel", "delete", "dislike", "unlike", "uninstall")


def choose(con: duckdb.DuckDBPyConnection, proposal: Proposal, relation: Relation, found: Profile) -> bool:
    """Put the roles into section source, and split.kind; False if the columns have no names to go by."""
    if _has_no_header(proposal, relation, found):
        return False
    _ids(proposal, found)
    _time(proposal, found)
    _weight(proposal, found)
    _event(proposal, found)
    _split(proposal, found)
    _title(con, proposal, relation, found)
    return True


def _best(role: str, found: Profile, able: Sequence[str]) -> tuple[list[str], list[str]]:
    """The likeliest of the columns that are able to have a role, and those whose name only holds a word."""
    ranked = roles.candidates(role, list(able))
    named = [one for one in ranked if one.rank < roles.NAME_PART]
    best = [one.name for one in named if one.rank == named[0].rank]
    return best, [one.name for one in ranked if one not in named]


def _ids(proposal: Proposal, found: Profile) -> None:
    able = [name for name, type_ in found.types.items() if type_ in columns.IDS]
    ranked = {role: _best(role, found, able) for role in ("user", "item")}
    sure = [best[0] for best, _ in ranked.values() if len(best) == 1]
    for role, (best, partly) in ranked.items():
        if len(best) == 1:
            proposal.put("source", role, best[0])
            continue
        maybe = (best or partly or [name for name in able if name not in sure])[:MOST_CHOICES]
        counts = {name: min(found.different[name], found.filled[name]) for name in maybe}
        shown = ", ".join(f"{toml(name)} (about {count:,} values)" for name, count in counts.items())
        why = "several columns may be it" if best else "no column is named like it"
        proposal.leave("source", role, f"{why}: {shown or 'there is no column of ids'}", maybe or [""])


def _has_no_header(proposal: Proposal, relation: Relation, found: Profile) -> bool:
    """Whether what stands in place of a csv's header looks like values; then names are left to the person."""
    names = found.heading
    is_named = any(_best(role, found, names)[0] for role in ("user", "item"))
    if is_named or not any(re.fullmatch(r"[\d.:/TZ +-]+", name) for name in names):
        return False
    numbered = ", ".join(literal(f"column_{place}") for place, _ in enumerate(names, 1))
    why = "there seems to be no header. Name the columns here, in place of files, then take user, item, time"
    options = f"header = false, {AS_TEXT}, names = [{numbered}]"
    query = f"select * from read_csv({literal(duckdb_pattern(relation.files or ''))}, {options})"
    proposal.leave("source", "query", why, [query])
    for place, key in enumerate(("user", "item", "time"), 1):
        proposal.offer("source", key, f"column_{place}")
    return True


def _free(proposal: Proposal, names: Sequence[str]) -> list[str]:
    """The columns that have no role yet."""
    taken = set(map(str, proposal.settings["source"].values()))
    return [name for name in names if name not in taken]


def _time(proposal: Proposal, found: Profile) -> None:
    read = _free(proposal, [name for name, one in found.times.items() if one.formats])
    best, partly = _best("time", found, read)
    if not best and not partly:
        best = read
    if len(best) != 1:
        if best or partly:
            why = f"{'several columns' if best else 'no column but some named otherwise'} hold times"
            proposal.leave("source", "time", why, best or partly)
        elif named := [one.name for one in roles.candidates("time", list(found.times))]:
            such = ", ".join(f"{toml(name)}, such as {found.times[name].example}" for name in named)
            proposal.leave("source", "time", f"no known format reads {such}", named)
            proposal.offer("source", "time_format", "%d.%m.%Y %H:%M")
        return  # without any, _split says what is possible
    (name,) = best
    one = found.times[name]
    proposal.put("source", "time", name)
    if len(one.formats) > 1:
        why = f"{len(one.formats)} formats read all of {toml(name)}: {one.example}"
        proposal.leave("source", "time_format", why, one.formats)
    elif one.formats[0] != times.ISO:
        proposal.put("source", "time_format", one.formats[0])
    if one.unread:
        proposal.say("source", f"{one.unread:,} values of it are no such time, such as {one.example}")


def _weight(proposal: Proposal, found: Profile) -> None:
    best, _ = _best("weight", found, _free(proposal, list(found.filled)))
    numbers, _ = _best("weight", found, _free(proposal, sorted(found.numbers)))
    if len(numbers) == 1 and numbers[0] in best:
        proposal.put("source", "weight", numbers[0])
    elif best:
        why = (
            "several columns may say how much"
            if len(best) > 1
            else "it is named so, but not all of it is numbers"
        )
        proposal.leave("source", "weight", f"{why}; without one a row counts 1", best)


def _event(proposal: Proposal, found: Profile) -> None:
    several = [name for name, kinds in found.kinds.items() if len(kinds) > 1]
    best, _ = _best("event", found, _free(proposal, several))
    if not best:
        return
    kinds = found.kinds[best[0]]
    weights = {kind: 0.0 if any(word in kind.lower() for word in TAKEN_BACK) else 1.0 for kind in kinds}
    if len(best) == 1 and "weight" not in proposal.settings["source"]:
        why = "Each kind of event counts as below: raise what means more; 0.0 leaves a kind out."
        proposal.put("source", "event", best[0], why)
        proposal.put("source", "event_weights", weights)
        return
    weight = proposal.settings["source"].get("weight")
    why = (
        f"{', '.join(map(toml, best))} may tell kinds of events apart ({', '.join(map(toml, kinds))}), and "
        f"{toml(weight)} says how much: name weight or event, not both"
        if weight is not None
        else "several columns may tell kinds of events apart; event_weights says what each counts"
    )
    proposal.leave("source", "event", why, best)
    proposal.offer("source", "event_weights", weights)


def _split(proposal: Proposal, found: Profile) -> None:
    """A predefined split if a column holds one, and whether there is anything to split by."""
    best, _ = _best("split", found, _free(proposal, list(found.kinds)))
    exact = [name for name in best if {"train", "test"} <= set(found.kinds[name]) <= PARTS]
    other = [name for name in best if name not in exact]
    if len(exact) == 1:
        proposal.put("source", "split", exact[0])
        why = "The log brings its own parts, which may leak. For a split by time leave both out."
        proposal.put("split", "kind", "predefined", why)
    elif exact:
        proposal.leave("source", "split", "several columns hold train and test", exact)
    for name in other:
        kinds = ", ".join(map(toml, found.kinds[name]))
        proposal.say(
            "source",
            f"{toml(name)} is named like a split, but holds {kinds}: a query would have to make it 'train', "
            "'validation' and 'test' to be taken",
        )
    undecided = {"source.time", "source.split"} & set(proposal.choices)
    if not exact and not undecided and "time" not in proposal.settings["source"]:
        why = (
            "no column says when, and none holds train and test. A log is split by its times; files that are "
            "parts of a published split are for recsys bench"
        )
        proposal.leave("source", "time", why)


def _title(con: duckdb.DuckDBPyConnection, proposal: Proposal, relation: Relation, found: Profile) -> None:
    item = proposal.settings["source"].get("item")
    able = [name for name, type_ in found.types.items() if type_ in columns.WORDS]
    best, _ = _best("title", found, _free(proposal, able))
    best = [name for name in best if found.different[name] > 1]
    if item is not None and len(best) == 1 and titles_per_item(con, relation, best[0], str(item)) <= 2:
        proposal.put("source", "title", best[0])
