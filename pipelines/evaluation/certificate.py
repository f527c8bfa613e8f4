"""The leakage certificate: no held-out data was used for fitting; checked at every evaluation.

certify_tables checks the prepared tables, certify_run the arrays, spaces and bundle made from them. Each
query of sql/certificate selects the rows that break its statement.

Axes: U users, I items, V values.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.config import files
from pipelines.config.config import Config
from pipelines.config.errors import DataError, InputError
from pipelines.data import content, folds
from pipelines.data.catalogue import catalogue
from pipelines.data.content import ItemContent
from pipelines.data.database import open_database
from pipelines.data.folds import Fold, FoldName
from pipelines.data.prepared import read_prepared
from pipelines.data.sql import read_sql
from pipelines.evaluation import new_items
from pipelines.training import model, refit
from pipelines.training.devices import choose_device
from recsys import baselines, sampling, spaces
from recsys.attributes import Attribute
from recsys.bundle import Bundle, open_bundle
from recsys.ids import IdMap
from recsys.interactions import Interactions
from recsys.spaces import Space, Vectors

FOLDS: tuple[FoldName, ...] = ("validation", "test")
TABLES = {  # statements of sql/certificate, and the evidence of each: counts of a fold
    "times": "",
    "pairs": "{new_targets:,} pairs held out as new, {pairs:,} fitted",
    "ids": "{users:,} users, {items:,} items",
    "weights": "{pairs:,} triples of {items:,} items",
    "popularity": "{items:,} items",
    "availability": "{items:,} items",
    "mined_negatives": "{mined_triplets:,} triplets",
}
RUN = {  # statements about a run
    "fitted": "Training and evaluation used the arrays of the events before the window, bit for bit.",
    "warm_start": "The runs of the warm start were fitted before the same fold's window.",
    "additions": "The spectral and trend coordinates of the model are computed from these arrays.",
    "bundle": "The bundle's ids, seen and popular items are of these arrays, its vectors are the run's.",
    "attributes": "The bundle's attributes are those of its items.",
    "new_items": "What places new items was learned from fitted items alone.",
}
LEAKS = {
    "time": "none: the test window is later than all fitted events",
    "leave_last_out": "other users' later events were fitted; for comparison with papers, not for a release",
    "predefined": "unknown: the split came with the data; for comparison with papers, not for a release",
}
SHOWN = 5  # offending rows in a message
SAMPLED = 500  # users, and items, whose distances are recomputed
CLOSE = 0.01  # relative RMS error; other threads give 6e-5, a leak of 0.1 % of the pairs 0.06

EXTENT = "select part, min(first_at), max(last_at) from item_parts group by part order by part"
TRIPLES = folds.TRIPLES.format(which="fold = $fold and ($start is null or event_at < $start)")
SPANS = """
select items.item, min(item_parts.first_at) as first_at, max(item_parts.last_at) as last_at
from items
inner join item_parts on items.item_id = item_parts.item_id and item_parts.part < cast($fold as part)
where items.fold = $fold and ($start is null or item_parts.last_at < $start)
group by items.item
order by items.item
"""


Arrays = dict[str, NDArray[Any]]


class Statement(NamedTuple):
    """One sentence of the certificate, and the result of its check."""

    name: str
    says: str
    holds: bool | None  # None: not claimed, for the reason in evidence
    evidence: str  # figures, in words
    offending: list[dict[str, Any]]  # the first rows that break it


def certify_tables(config: Config) -> list[Statement]:
    """Check the prepared tables of both folds. Raises DataError, naming each statement that does not hold.

    config decides whether mining respects availability: pass model.with_settings_of_run.
    """
    counts = read_prepared(config).counts
    with open_database(config) as con:
        core = config.split.min_users_per_item, config.split.min_items_per_user
        con.execute("set variable has_core = ?", [core != (1, 1)])
        return _raise_if_broken([_check_table(con, name, config, counts) for name in TABLES])


def certify_run(config: Config, run: Path, fold: Fold, bundle_folder: Path) -> list[Statement]:
    """Check a run, the test fold of its evaluation, and its bundle; after certify_tables.

    The arrays of the events before each window are read again from the certified tables, and the fitted ones
    must equal them. Raises DataError as certify_tables does.
    """
    done = json.loads((run / "train.json").read_text())
    statements = [_fitted(config, done, fold), _warm_start(config, done)]
    _raise_if_broken(statements)  # the other checks rely on fold.fit
    bundle = open_bundle(bundle_folder)
    made, served = model.load(run, choose_device(config.train.device))
    known = content.load_content(config, "test", fold)
    statements += [
        _additions(run, done, fold, (made, served), known),
        _bundle(fold, served, bundle),
        _attributes(fold, bundle),
        _new_items(run, fold, made, known),
    ]
    return _raise_if_broken(statements)


def read_fit(config: Config, name: FoldName) -> Interactions:
    """The interactions a fold may fit: before its window if split by time; spans from item_parts."""
    with open_database(config) as con:
        starts = con.execute("select validation_start, test_start from windows").fetchall()[0]
        what = {"fold": name, "start": starts[FOLDS.index(name)]}
        triples, spans = (con.sql(query, params=what).pl() for query in (TRIPLES, SPANS))
    return folds.to_interactions(triples, triples["user"].n_unique(), spans)


def as_json(statements: list[Statement]) -> list[dict[str, Any]]:
    """The statements as in metrics.json."""
    return [{key: value for key, value in one._asdict().items() if key != "offending"} for one in statements]


def is_complete(result: dict[str, Any]) -> bool:
    """Whether the result has every statement, and none that does not hold."""
    statements = result.get("certificate") or []
    names = [one["name"] for one in statements]
    return names == [*TABLES, *RUN] and all(one["holds"] is not False for one in statements)


def lines(result: dict[str, Any]) -> list[str]:
    """A result's certificate in words. Raises InputError if it is missing or incomplete."""
    statements = result.get("certificate") or []
    if not is_complete(result):
        raise InputError("these results have no leakage certificate: run evaluate again")
    held = [one["name"] for one in statements if one["holds"]]
    not_claimed = [f"not claimed: {one['name']}: {one['evidence']}" for one in statements if not one["holds"]]
    return [f"certificate: {len(held)} of {len(statements)} statements hold: {', '.join(held)}", *not_claimed]


def _raise_if_broken(statements: list[Statement]) -> list[Statement]:
    broken = [one for one in statements if one.holds is False]
    if not broken:
        return statements
    words = [f"{one.name} ({one.says} {one.evidence}{_row_words(one.offending)})" for one in broken]
    raise DataError(f"certificate: nothing is scored, these statements do not hold: {'; '.join(words)}")


def _row_words(offending: list[dict[str, Any]]) -> str:
    shown = ["{" + ", ".join(f"{name} = {value}" for name, value in row.items()) + "}" for row in offending]
    return f", the first: {', '.join(shown)}" if shown else ""


def _check_table(
    con: duckdb.DuckDBPyConnection, name: str, config: Config, counts: dict[str, int]
) -> Statement:
    text = read_sql(f"certificate/{name}")
    says = text.splitlines()[1].removeprefix("-- Holds: ")
    if name == "times" and config.split.kind != "time":
        return Statement(name, says, None, _leaks(con), [])
    found = con.execute(f"{text}\nlimit {SHOWN}")
    columns = [column[0] for column in found.description or []]
    rows = [dict(zip(columns, row, strict=True)) for row in found.fetchall()]
    if rows:
        total = con.execute(f"select count(*) from (\n{text}\n)").fetchall()[0][0]
        return Statement(name, says, False, f"Offending rows: {total:,}", rows)
    if name == "times":
        extent = con.execute(EXTENT).fetchall()
        return Statement(name, says, True, ", ".join("{} {} to {}".format(*part) for part in extent), [])
    figures = []
    for fold in FOLDS:
        known = {key.removeprefix(f"{fold}."): n for key, n in counts.items() if key.startswith(f"{fold}.")}
        figures.append(f"{fold} {TABLES[name].format(**{'mined_triplets': 0} | known)}")
    if name == "availability" and config.mining.availability != "first_and_last":
        respected = config.mining.availability == "first"
        figures.insert(0, f"{'from first seen only' if respected else 'not'} respected by mining")
        return Statement(name, says, respected or None, "; ".join(figures), [])
    return Statement(name, says, True, "; ".join(figures), [])


def _leaks(con: duckdb.DuckDBPyConnection) -> str:
    """What a split that is not by time leaks: counts of each fold."""
    words = []
    for row in con.sql(read_sql("certificate/leaks")).pl().to_dicts():
        late = "without times the order of fitted and held-out events is unknown"
        if row["held_out_from"] is not None:
            late = (
                "{late_pairs:,} of {pairs:,} fitted pairs, of {late_users:,} of {known_users:,} users, have "
                "events from {held_out_from} on, when the first held-out one was"
            ).format(**row)
        again = "{repeats:,} of {targets:,} held-out pairs were fitted too".format(**row)
        words.append(f"{row['fold']}: {late}; {again}")
    return "; ".join(words)


def _statement(name: str, evidence: str, offending: list[dict[str, Any]]) -> Statement:
    total = f"Offending rows: {len(offending):,}"
    return Statement(name, RUN[name], not offending, total if offending else evidence, offending[:SHOWN])


def _fitted(config: Config, done: dict[str, Any], fold: Fold) -> Statement:
    """Compare digests: those that training wrote for each fold, and that of the evaluated fold."""
    fits = {name: read_fit(config, name) for name in FOLDS}
    digests = {name: folds.fit_digest(fit) for name, fit in fits.items()}
    written = done.get("fitted_on") or {}
    used: list[tuple[str, FoldName, str | None]] = [("evaluation", "test", folds.fit_digest(fold.fit))]
    used += [("training", name, written.get(name)) for name in FOLDS]
    other = [
        {"who": who, "fold": name, "sha256": digest, "before_the_window": digests[name]}
        for who, name, digest in used
        if digest != digests[name]
    ]
    evidence = "; ".join(f"{name} {len(fits[name]):,} pairs, SHA-256 {digests[name][:16]}" for name in FOLDS)
    return _statement("fitted", evidence, other)


def _warm_start(config: Config, done: dict[str, Any]) -> Statement:
    """Follow the chain of warm starts back, run by run."""
    starts, late, chain, unknown = folds.window_starts(config), [], [], []
    source = done.get("warm_from")
    while source is not None:
        before = files.read_json(config.runs / source["run"] / "train.json") or {}
        until = {"test": 0} | before.get("latest", {})
        until["test"] = max(until["test"], int(datetime.fromisoformat(source["fitted_until"]).timestamp()))
        late += [
            {"run": source["run"], "fold": name, "fitted_until": _utc(until[name]), "window": _utc(start)}
            for name, start in starts.items()
            if name in until and until[name] >= start
        ]
        chain.append(f"{source['run']}, fitted until {_utc(until['test'])}")
        if "latest" not in before:
            unknown.append(f"{source['run']} has no record of its fitted data, or is missing")
        source = before.get("warm_from")
    found = _statement("warm_start", "; ".join(chain + unknown) or "from nothing", late)
    return found if late or not unknown else found._replace(holds=None)


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(" ")


def _additions(
    run: Path,
    done: dict[str, Any],
    fold: Fold,
    model_of_run: tuple[dict[str, Space], Vectors],
    known: ItemContent | None,
) -> Statement:
    """Compare distances: served = each part's times its scale; untrained parts are made anew."""
    made, served = model_of_run
    parts = model.read_choice(run)["parts"]
    device = served[0].device
    if device.type != str(done["device"]).partition(":")[0] and any(
        part.kind == "spectral" for part in parts
    ):
        evidence = f"the spectrum was computed on {done['device']}; {device} has other random numbers"
        return Statement("additions", RUN["additions"], None, evidence, [])
    data = sampling.to_device(fold.fit, device)
    dim = refit.widest(parts)
    spectrum = baselines.spectral(data, dim, 0.0, seed=done["seed"]) if dim else None
    found = _distances(served)
    expected = torch.zeros_like(found)
    for part in parts:
        space = made[part.name] if part.is_trained else model.untrained_space(part, data, spectrum, known)
        expected += part.scale * _distances(spaces.euclidean_vectors(space))
    error = float((found - expected).square().mean().sqrt() / found.square().mean().sqrt().clamp_min(1e-12))
    weights = ", ".join(f"{part.name} {part.weight:g}" for part in parts)
    evidence = f"weights: {weights}; distances differ by {error:.1e} of their spread"
    return _statement("additions", evidence, [] if error <= CLOSE else [{"error": error, "allowed": CLOSE}])


def _distances(vectors: Vectors) -> torch.Tensor:
    """(U', I') squared distances of a sample, minus each user's mean, as only differences matter."""
    users, items = (part[:: max(1, len(part) // SAMPLED)].double() for part in vectors)
    squared = torch.cdist(users, items, compute_mode="donot_use_mm_for_euclid_dist").square()
    return squared - squared.mean(1, keepdim=True)


def _new_items(run: Path, fold: Fold, made: dict[str, Space], known: ItemContent | None) -> Statement:
    if known is None:
        return Statement("new_items", RUN["new_items"], None, "no new items are placed", [])
    wrong = new_items.differing(run, fold.fit.n_items, made, known)
    return _statement("new_items", f"{fold.n_new:,} new items by {len(known.columns):,} features", wrong)


def _bundle(fold: Fold, served: Vectors, bundle: Bundle) -> Statement:
    found: Arrays = {
        "seen_offsets": bundle.seen_offsets,
        "seen_items": bundle.seen_items,
        "popular": bundle.popular,
    }
    found |= {"user_vectors": bundle.user_vectors, "item_vectors": bundle.item_vectors}
    found |= _arrays("user_ids", bundle.users) | _arrays("item_ids", bundle.items)
    listed = catalogue(fold)
    right: Arrays = {"seen_offsets": listed.seen[0], "seen_items": listed.seen[1], "popular": listed.popular}
    right |= {"user_vectors": served[0].cpu().numpy(), "item_vectors": served[1].cpu().numpy()[listed.order]}
    right |= _arrays("user_ids", IdMap.of(fold.user_ids)) | _arrays("item_ids", IdMap.of(listed.item_ids))
    found["new_items"], right["new_items"] = bundle.new_items, listed.new
    evidence = f"{len(bundle.users):,} users, {len(bundle.items):,} items, {len(fold.fit):,} seen pairs"
    return _statement("bundle", evidence, _differing(found, right))


def _attributes(fold: Fold, bundle: Bundle) -> Statement:
    known = {name: Attribute.of(labels) for name, labels in catalogue(fold).attributes.items()}
    found, right = (
        {
            f"{name}.{part}": array
            for name, one in attributes.items()
            for part, array in (
                _arrays("values", one.values) | {"offsets": one.offsets, "items": one.items}
            ).items()
        }
        for attributes in (bundle.attributes, known)
    )
    evidence = f"attributes: {len(known)}; they filter items, no model reads them"
    return _statement("attributes", evidence, _differing(found, right))


def _arrays(name: str, ids: IdMap) -> Arrays:
    if isinstance(ids.ids, np.ndarray):
        return {name: ids.ids}
    return {f"{name}.bytes": ids.ids.blob, f"{name}.offsets": ids.ids.offsets}


def _differing(found: Arrays, right: Arrays) -> list[dict[str, Any]]:
    """A row for each array that differs, with the first place where it does."""
    rows = []
    nothing = np.empty(0)
    for name in found | right:
        one, other = found.get(name, nothing).ravel(), right.get(name, nothing).ravel()
        if len(one) != len(other):
            rows.append({"array": name, "length": len(one), "expected": len(other)})
        elif not np.array_equal(one, other):
            place = int(np.flatnonzero(one != other)[0])
            rows.append({"array": name, "place": place, "is": one[place], "expected": other[place]})
    return rows
