"""The gate: what each guardrail blocks, and which bundles cannot be compared.

Planted bundles have one coordinate per item: a user's vector is their score of each item, so that a test sets
each list.
"""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from shop import Shop, bundle_of

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data.folds import Fold, as_list, load_fold
from pipelines.evaluation.statistics import compare
from pipelines.release import guardrails
from pipelines.release.gate import Verdict, decide, lines, read, why
from pipelines.release.guardrails import Guardrail
from recsys.bundle import BundleContent, IndexPlan, write_bundle
from recsys.releases import publish

# --- guardrails as functions ---


def test_dropping_users_or_items_alone_blocks() -> None:
    champion = {"n_users": 1000, "n_items": 200}
    for known, holds in (((1000, 200), True), ((900, 200), True), ((899, 200), False), ((1100, 179), False)):
        rail = guardrails.reach({"n_users": known[0], "n_items": known[1]}, champion, 0.9)
        assert (rail.name, rail.holds) == ("reach", holds)


def test_overlap_equals_the_mean_over_all_pairs() -> None:
    rng = np.random.default_rng(3)
    for users, k, n_items in ((2, 1, 2), (7, 5, 12), (30, 10, 40)):
        lists = np.stack([rng.permutation(n_items)[:k] for _ in range(users)]).astype(np.int32)
        shared = [
            len({*lists[one]} & {*lists[other]}) / k for one, other in itertools.combinations(range(users), 2)
        ]
        found = guardrails.overlap(lists, n_items, 0.9)
        assert found.value == pytest.approx(np.mean(shared), abs=1e-12)
    same = np.tile(np.arange(5, dtype=np.int32), (8, 1))
    assert guardrails.overlap(same, 1000, 0.9)[1:4] == (1.0, pytest.approx(0.9005), False)
    assert guardrails.overlap(same, 5, 0.9).holds, "a catalogue of five has but one list of five"
    assert guardrails.overlap(same[:1], 1000, 0.9).holds
    assert guardrails.overlap(np.full((4, 3), -1, np.int32), 9, 0.9).holds


def test_lists_that_end_early_count_what_they_have() -> None:
    lists = np.array([[1, 2, -1], [2, 3, 4]], np.int32)
    assert guardrails.overlap(lists, 100, 0.9).value == 2 / 5  # of five slots two meet their like
    assert guardrails.coverage(lists, lists, 10, 1.0).value == 0.4
    unknown = np.array([[1, 10, 11], [2, 10, 11]], np.int32)  # 10 and 11 are no items of this catalogue
    assert guardrails.coverage(unknown, lists, 10, 0.5)[1:4] == (0.2, 0.2, True)
    counts = np.array([0, 9, 5, 1, 1, 1, 1, 1, 1, 1])
    assert guardrails.popular_share(unknown, lists, counts, 0.0)[1:4] == (1 / 6, 1 / 5, True)


def test_a_slice_that_is_too_small_or_lost_by_chance_holds_and_says_so() -> None:
    def cold(challenger: NDArray[Any], champion: NDArray[Any]) -> Guardrail:
        found = compare(challenger, champion, alpha=0.05, resamples=1000, seed=0)
        return guardrails.cold("cold users", "users", len(champion), found, 0.2)

    few = cold(np.zeros(29), np.ones(29))
    assert few.holds
    assert "29 users are too few" in few.words
    rare = np.zeros(1000)
    rare[:5] = 1
    less = np.roll(rare, 500)
    less[500:502] = 0
    chance = cold(less, rare)  # 3 hits against 5
    assert chance.holds
    assert chance.words.endswith("but that may be chance")
    assert not cold(np.zeros(1000), np.repeat([1.0, 0.0], [100, 900])).holds
    assert not guardrails.cold("cold items", "targets", 0, None, 0.2).words.startswith("0.0")


# --- decide, on the data of a real run ---


class Planted:
    """Releases bundles with planted lists, on the data of a finished retrain."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.fold: Fold = load_fold(shop.config, "test")
        self.offsets = self.fold.target_offsets
        self.users, self.items = self.fold.fit.n_users, self.fold.fit.n_items
        self.filler = np.random.default_rng(0).random((self.users, self.items))  # scores below 1
        self.counts = self.fold.fit.item_counts()
        self.rare = np.argsort(self.counts, kind="stable")[: self.items // 2]
        self.fitted = np.diff(self.fold.fit.offsets())

    def targets(self, user: int) -> list[int]:
        return self.fold.target_items[self.offsets[user] : self.offsets[user + 1]].tolist()

    def scores(self, every: int = 1, users: Any = None) -> NDArray[np.float64]:
        """Random scores with all targets last, but first for one user in `every`, or for `users`."""
        scores = self.filler.copy()
        for user in range(self.users):
            shown = user % every == 0 if users is None else user in users
            scores[user, self.targets(user)] = 2 if shown else -1
        return scores

    def release(self, folder: Path, scores: NDArray[np.float64], **changes: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        held = {
            "user_ids": self.fold.user_ids,
            "item_ids": self.fold.item_ids,
            "seen": (self.fold.fit.offsets(), self.fold.fit.item),
            "info": {"fitted_until": "2024-03-21T00:00:00+00:00"},
        } | changes
        info, measured = held.pop("info"), held.pop("measured", None)
        n_items = scores.shape[1]
        write_bundle(
            folder,
            BundleContent(
                user_vectors=scores.astype(np.float32),
                item_vectors=np.eye(n_items, dtype=np.float32),
                popular=np.arange(n_items, dtype=np.int32),
                **held,
            ),
            IndexPlan(1, None, measured=measured),
            info=info,
        )

    def champion(self, scores: NDArray[np.float64], **changes: Any) -> None:
        self.release(self.shop.config.bundles / "champion", scores, **changes)
        publish(self.shop.config.bundles, "champion")

    def challenger(self, scores: NDArray[np.float64], **changes: Any) -> None:
        self.release(bundle_of(self.shop), scores, **changes)

    def verdict(self, **gate: Any) -> Verdict:
        config = self.shop.config.model_dump() | {"gate": {"resamples": 1000} | gate}
        return decide(Config.model_validate(config), self.shop.run)


@pytest.fixture
def planted(own_shop: Shop) -> Planted:
    return Planted(own_shop)


def blocked_by(verdict: Verdict, name: str) -> None:
    """Assert that the verdict is a fail with a single reason that starts with `name`."""
    assert verdict.verdict == "fail"
    assert not verdict.holds
    assert len(verdict.reasons) == 1, verdict.reasons
    assert verdict.reasons[0].startswith(name)
    assert why(verdict) == f"not promoted: {verdict.reasons[0]}"


def test_an_equal_challenger_passes_and_a_better_one_is_called_better(planted: Planted) -> None:
    planted.champion(planted.scores(2))
    planted.challenger(planted.scores(2))
    verdict = planted.verdict()
    assert (verdict.verdict, verdict.reasons, verdict.champion) == ("pass", [], "champion")
    assert verdict.comparison is not None
    assert verdict.comparison.challenger == verdict.comparison.champion == pytest.approx(0.5)
    assert {rail.name for rail in verdict.guardrails} == {
        *(
            "reach",
            "popularity baseline",
            "coverage",
            "popular items",
            "cold users",
            "cold items",
            "overlap",
            "index recall",
            "latency",
        )
    }
    assert "may be promoted" in lines(verdict)[0]
    planted.challenger(planted.scores(1))
    verdict = planted.verdict()
    assert verdict.comparison is not None
    assert verdict.comparison.superior
    assert any(line.endswith("and it is better") for line in lines(verdict))


def test_a_worse_challenger_is_refused_with_its_difference(planted: Planted) -> None:
    planted.champion(planted.scores(1))
    planted.challenger(planted.scores(1, users={*range(200)} - {*range(0, 200, 8)}))
    verdict = planted.verdict(cold_margin=1.0)
    blocked_by(verdict, "ndcg@10 .8750 against the champion's 1.0000: the difference -.1250 [-.")
    assert "may reach below -2 % of it (-.0200)" in verdict.reasons[0]
    per_user = pl.read_parquet(planted.shop.run / "champion_per_user.parquet")
    assert per_user.columns == ["user_id", "champion", "challenger"]
    assert per_user["user_id"].to_list() == as_list(planted.fold.user_ids)
    assert (per_user["challenger"] - per_user["champion"]).mean() == pytest.approx(-0.125)


def test_coverage_alone_blocks(planted: Planted) -> None:
    scores = planted.scores(2)
    planted.champion(scores)
    unasked = np.setdiff1d(np.arange(planted.items), planted.fold.target_items)
    hidden = unasked[0] if len(unasked) else planted.rare[0]
    scores[:, hidden] = -1
    planted.challenger(scores)
    blocked_by(planted.verdict(min_coverage=0.9999, margin=0.5, cold_margin=1), "coverage: 99.2 %")
    assert planted.verdict(margin=0.5, cold_margin=1).holds


def test_popular_items_alone_block(planted: Planted) -> None:
    scores = planted.scores(2)
    planted.champion(scores)
    scores[:, planted.counts.argmax()] = np.maximum(scores[:, planted.counts.argmax()], 1.5)
    planted.challenger(scores)
    blocked_by(planted.verdict(max_popular_share=0.01), "popular items: the 1 most popular of 120 items")
    assert planted.verdict().holds


def test_cold_users_alone_block(planted: Planted) -> None:
    """A quarter of the users lose all hits, and twice as many others gain them."""
    cold = {*guardrails.coldest_users(planted.fitted).tolist()}
    warm = {*range(200)} - cold
    planted.champion(planted.scores(users=cold | {user for user in warm if user % 3 == 0}))
    planted.challenger(planted.scores(users=warm))
    blocked_by(
        planted.verdict(cold_margin=0.2), "cold users: .0000 against the champion's 1.0000 over 50 users"
    )
    assert planted.verdict(cold_margin=1.0).holds


def test_cold_items_alone_block(planted: Planted) -> None:
    """Rare items are not recommended any more; the others are, to all users."""
    planted.champion(planted.scores(2))
    scores = planted.scores(1)
    owners = np.repeat(np.arange(planted.users), np.diff(planted.offsets))
    rare = np.isin(planted.fold.target_items, planted.rare)
    scores[owners[rare], planted.fold.target_items[rare]] = -1
    planted.challenger(scores)
    blocked_by(planted.verdict(), "cold items: .0000 against the champion's ")
    assert f"over {rare.sum():,} targets" in planted.verdict().reasons[0]


def test_equal_lists_for_all_users_alone_block(planted: Planted) -> None:
    planted.champion(planted.scores(2))
    scores = planted.scores(2)
    same = scores[:, planted.rare[:15]]
    scores[:, planted.rare[:15]] = np.where((same >= 0) & (same < 1), 1 + np.linspace(0.9, 0.1, 15), same)
    planted.challenger(scores)
    loose = {"min_coverage": 0.0}
    blocked_by(planted.verdict(max_overlap=0.2, **loose), "overlap: two users have ")
    assert planted.verdict(max_overlap=0.9, **loose).holds


def measured(recall: float, p50_ms: float) -> dict[str, Any]:
    point = {"trees": None, "search_k": None, "recall": recall, "p50_ms": p50_ms, "p99_ms": 9.0, "bytes": 0}
    return {"k": 20, "target": 0.95, "curve": [point]}


def test_index_recall_alone_blocks(planted: Planted) -> None:
    planted.champion(planted.scores(2), measured=measured(1.0, 0.2))
    planted.challenger(planted.scores(2), measured=measured(0.9, 0.2))
    blocked_by(planted.verdict(), "index recall: 90.0 % of the exact top 20 are found, allowed >= 95.0 %")


@pytest.mark.parametrize(
    ("theirs", "ours", "blocked"), [(0.01, 0.9, False), (0.01, 1.1, True), (2, 5.9, False), (2, 6.1, True)]
)
def test_latency_alone_blocks_above_a_millisecond(
    planted: Planted, theirs: float, ours: float, blocked: bool
) -> None:
    planted.champion(planted.scores(2), measured=measured(1.0, theirs))
    planted.challenger(planted.scores(2), measured=measured(1.0, ours))
    if blocked:
        blocked_by(planted.verdict(), f"latency: half of the queries take {ours:.3f} ms, allowed <= ")
    else:
        assert planted.verdict().holds


def test_a_champion_that_was_fitted_on_the_test_window_is_not_compared_with(planted: Planted) -> None:
    planted.champion(planted.scores(2), info={"fitted_until": "2024-03-21T00:00:01+00:00"})
    planted.challenger(planted.scores(1))
    verdict = planted.verdict()
    blocked_by(verdict, "the champion was fitted on data until 2024-03-21T00:00:01+00:00, which is inside")
    assert verdict.comparison is None
    planted.champion(planted.scores(2), info={})
    verdict = planted.verdict()
    assert verdict.holds
    assert "not known: the champion does not say" in verdict.notes[0]


def test_a_damaged_champion_is_not_replaced(planted: Planted) -> None:
    planted.champion(planted.scores(2))
    planted.challenger(planted.scores(2))
    (planted.shop.config.bundles / "champion" / "popular.npy").write_bytes(b"")
    verdict = planted.verdict()
    blocked_by(verdict, "the champion cannot be opened: ")
    assert "popular.npy: 0 bytes" in verdict.reasons[0]


def test_a_damaged_challenger_is_an_error_that_names_it(planted: Planted) -> None:
    planted.champion(planted.scores(2))
    planted.challenger(planted.scores(2))
    (bundle_of(planted.shop) / "popular.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"popular.npy: 0 bytes.*export writes it again"):
        planted.verdict()


def test_the_champion_is_not_compared_with_itself(own_shop: Shop, said: list[str]) -> None:
    before = read(own_shop.run)
    verdict = decide(own_shop.config, own_shop.run)
    assert (verdict.verdict, verdict.holds, verdict.reasons) == ("unchanged", True, [])
    assert said == [f"gate: {bundle_of(own_shop).name} is the champion already"]
    kept = read(own_shop.run)
    assert kept == (before or verdict), "the verdict that made it champion is kept"


def test_a_verdict_is_reused_until_a_bundle_or_a_setting_changes(planted: Planted) -> None:
    planted.champion(planted.scores(2))
    planted.challenger(planted.scores(2))
    first = planted.verdict()
    written = (planted.shop.run / "gate.json").stat().st_mtime_ns
    assert planted.verdict() == first == read(planted.shop.run)
    assert (planted.shop.run / "gate.json").stat().st_mtime_ns == written
    assert planted.verdict(margin=0.1).key != first.key
    planted.champion(planted.scores(1))
    assert not planted.verdict().holds
    (planted.shop.run / "gate.json").write_text('{"key": ')
    assert read(planted.shop.run) is None
    assert not planted.verdict().holds


def test_the_fold_and_not_the_bundle_says_what_is_seen(planted: Planted) -> None:
    """The champion's seen list is empty, the challenger's holds the targets: with these both would miss."""
    nothing = np.zeros(planted.users + 1, np.int64), np.empty(0, np.int32)
    scores = planted.scores(2)
    scores[planted.fold.fit.user, planted.fold.fit.item] = 3  # what they have comes first, if it is shown
    planted.champion(scores, seen=nothing)
    targets = planted.fold.target_offsets, planted.fold.target_items
    planted.challenger(scores, seen=targets)
    verdict = planted.verdict()
    assert verdict.comparison is not None
    assert verdict.comparison.challenger == verdict.comparison.champion == pytest.approx(0.5)


def test_items_unknown_to_the_data_keep_their_rank_and_miss(planted: Planted) -> None:
    scores = planted.scores(1)
    more = np.hstack([scores, np.full((planted.users, 1), 9.0)])  # a product that is no more, first of all
    planted.champion(more, item_ids=np.append(planted.fold.item_ids, 9999))
    planted.challenger(scores)
    verdict = planted.verdict()
    assert verdict.comparison is not None
    assert verdict.comparison.challenger == pytest.approx(1.0)
    targets = np.diff(planted.offsets)
    discount = 1 / np.log2(np.arange(2, 12))
    lost = [discount[1 : 1 + n].sum() / discount[:n].sum() for n in targets[targets > 0]]
    assert verdict.comparison.champion == pytest.approx(np.mean(lost))


def test_a_first_release_is_compared_with_popular_items(planted: Planted) -> None:
    (planted.shop.config.bundles / "current").unlink()
    planted.challenger(planted.scores(1))
    verdict = planted.verdict()
    assert (verdict.verdict, verdict.champion, verdict.comparison) == ("pass", None, None)
    assert [rail.name for rail in verdict.guardrails] == ["popularity baseline", "overlap", "index recall"]
    assert not (planted.shop.run / "champion_per_user.parquet").exists()
    planted.challenger(planted.scores(users=set()))
    blocked_by(planted.verdict(), "popularity baseline: ndcg@10 .0000 against ")


def test_the_gate_scores_the_bundle_as_evaluate_does(own_shop: Shop) -> None:
    """A copy of the bundle as champion: both sides equal the per-user values of what was served."""
    bundles = own_shop.config.bundles
    shutil.copytree(bundle_of(own_shop), bundles / "copy")
    publish(bundles, "copy")
    assert decide(own_shop.config, own_shop.run).holds
    per_user = pl.read_parquet(own_shop.run / "champion_per_user.parquet")
    served = pl.read_parquet(own_shop.run / "per_user.parquet").filter(pl.col("system") == "served")
    for side in ("champion", "challenger"):
        assert per_user[side].to_list() == served["ndcg@10"].to_list()
