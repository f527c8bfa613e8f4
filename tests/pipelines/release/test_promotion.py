"""Promotion and rollback: MLflow's alias and `current` move as one, whatever dies in between."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from champions import RUNS, alias, config_at, promote, stage_bundle
from shop import Shop, bundle_of, failed, recsys

from pipelines.config.config import Config
from pipelines.config.errors import InputError
from pipelines.data.folds import load_fold
from pipelines.release import promotion
from pipelines.release.export import bundle_folder
from pipelines.release.gate import read
from pipelines.tracking import store, upload
from recsys.bundle import BundleContent, IndexPlan, open_bundle, write_bundle
from recsys.releases import current, list_versions, publish


def moved_as_one(config: Config) -> str | None:
    """What both alias and link name; nothing is left to be done."""
    assert alias(config) == current(config.bundles)
    left = {path.name for path in config.root.iterdir()}
    assert not left & {promotion.INTENT, promotion.OWED}
    return current(config.bundles)


@pytest.fixture
def config(tmp_path: Path, mlflow_template: Path) -> Config:
    """Three runs with bundles, the first promoted, the second and third registered challengers."""
    config = config_at(tmp_path / "root")
    config.root.mkdir()
    shutil.copy(mlflow_template, config.root / "mlflow.db")
    for run in RUNS:
        stage_bundle(config, run)
    promote(config, 0)
    return config


def names(config: Config) -> list[str]:
    return [bundle_folder(config, config.runs / run).name for run in RUNS]


def test_promote_moves_alias_and_link_and_says_so(config: Config, said: list[str]) -> None:
    first, second, _ = names(config)
    assert moved_as_one(config) == first
    assert promote(config, 1) == second
    assert moved_as_one(config) == second
    assert said == [f"promotion: {config.bundles / 'current'} is now {second}"]
    assert promotion.champions(config) == [first, second]
    assert promote(config, 1) == second  # again changes nothing
    assert moved_as_one(config) == second
    assert promotion.champions(config) == [first, second]


def killed(root: Path, deadly_step: int, steps: Any, do: Callable[[Config], object]) -> None:
    """Do it, counting each write, renaming, removal and link of a file of the root; SIGKILL at one."""

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[1] is not None and arguments[1][0] in "wax"
        moves = event in ("alias", "os.rename", "os.remove", "os.symlink")
        if (writes or moves) and str(root) in str(arguments):
            steps.value += 1
            if steps.value == deadly_step:
                os.kill(os.getpid(), signal.SIGKILL)

    tracking_set = upload.set_alias

    def counted(*arguments: Any) -> bool:  # SQLite opens its files by itself: before and after it
        count("alias", (str(root),))
        done = tracking_set(*arguments)
        count("alias", (str(root),))
        return done

    upload.set_alias = counted  # in a process of its own
    sys.addaudithook(count)
    do(config_at(root))


@pytest.mark.parametrize("way", ["promote", "rollback"])
def test_kill_9_at_any_step_then_finish_leaves_both_on_one_bundle(config: Config, way: str) -> None:
    """Once the intent is on the disk it is the new one, before that the old one."""
    first, second, _ = names(config)
    if way == "rollback":
        promote(config, 1)
    old, new = (first, second) if way == "promote" else (second, first)

    def do(config: Config) -> object:
        return promote(config, 1) if way == "promote" else promotion.rollback(config, None)

    fork = multiprocessing.get_context("fork")
    seen, apart = set[str | None](), 0

    def attempt(deadly_step: int) -> tuple[Config, int]:
        root = config.root.with_name(f"{way}-{deadly_step}")
        shutil.copytree(config.root, root, symlinks=True)
        steps = fork.Value("i", 0)
        process = fork.Process(target=killed, args=(root, deadly_step, steps, do))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if deadly_step else 0)
        return config_at(root), int(steps.value)

    whole, last = attempt(0)
    assert moved_as_one(whole) == new
    assert last > 10
    for deadly_step in range(1, last + 1):
        broken, _ = attempt(deadly_step)
        intent = (broken.root / promotion.INTENT).exists()
        moved, apart = current(broken.bundles) == new, apart + (alias(broken) != current(broken.bundles))
        promotion.finish(broken)
        after = moved_as_one(broken)
        seen.add(after)
        assert after == (new if intent or moved else old)
        assert promotion.champions(broken)[-1] == after
        shutil.rmtree(broken.root)
    assert seen == {old, new}
    assert apart > 0, "some kills came between alias and link"


def test_an_intent_whose_bundle_is_gone_broken_or_overtaken_is_dropped(
    config: Config, said: list[str]
) -> None:
    first, second, third = names(config)

    def cut_short(version: str, before: str) -> list[str]:
        said.clear()
        intent = {"bundle": version, "run": "x", "from": before}
        (config.root / promotion.INTENT).write_text(json.dumps(intent))
        assert upload.set_alias(config, "champion", second)  # so far it had come
        promotion.finish(config)
        assert moved_as_one(config) == first
        return said

    assert (
        f"dropped, gone is not promoted: {config.bundles}/gone/manifest.json: missing"
        in cut_short("gone", first)[0]
    )
    (config.bundles / second / "popular.npy").write_bytes(b"")
    assert "popular.npy: 0 bytes" in cut_short(second, first)[0]
    assert f"'{first}' has become current since" in cut_short(third, second)[0]
    (config.root / promotion.INTENT).write_text('{"bundle": ')  # itself cut short: nothing was done
    promotion.finish(config)
    assert moved_as_one(config) == first


def test_a_bundle_that_is_not_whole_is_not_promoted(config: Config) -> None:
    first, second, third = names(config)
    (config.bundles / second / "popular.npy").write_bytes(b"")
    shutil.rmtree(config.bundles / third)
    for number, message in ((1, "popular.npy: 0 bytes"), (2, "manifest.json: missing")):
        with pytest.raises(InputError, match=message):
            promote(config, number)
        assert moved_as_one(config) == first


def test_a_link_that_cannot_be_moved_takes_the_alias_back(config: Config) -> None:
    link = config.bundles / "current"
    link.unlink()
    shutil.copytree(config.bundles / names(config)[0], link)  # what a tool that follows links makes of it
    with pytest.raises(InputError, match=r"current' is a folder, expected a link: .*first move it away: mv"):
        promote(config, 1)
    assert not (config.root / promotion.INTENT).exists()
    assert moved_as_one(config) == names(config)[0]
    shutil.rmtree(link)
    link.symlink_to(names(config)[0])
    promotion.finish(config)
    assert moved_as_one(config) == names(config)[0]


def test_where_it_cannot_be_told_what_is_current_nothing_begins(config: Config, said: list[str]) -> None:
    link, before = config.bundles / "current", alias(config)
    link.unlink()
    (link / "of another tool").mkdir(parents=True)
    for begin in (lambda: promote(config, 1), lambda: promotion.rollback(config, None)):
        with pytest.raises(InputError, match=r"current/manifest\.json: missing"):
            begin()
    promotion.prune(config)
    assert "old versions could not be removed" in said[0]
    assert {name for name, _ in list_versions(config.bundles)} == {*names(config)}
    assert (link / "of another tool").is_dir()
    assert (alias(config), (config.root / promotion.INTENT).exists()) == (before, False)


def test_rollback_goes_to_the_champion_before_not_to_a_challenger_that_failed(config: Config) -> None:
    first, _, third = names(config)  # the second never became champion
    promote(config, 2)
    assert promotion.rollback(config, None) == (third, first)
    assert moved_as_one(config) == first
    with pytest.raises(InputError, match="no champion before the current one"):
        promotion.rollback(config, None)
    assert promotion.rollback(config, third) == (first, third)
    assert moved_as_one(config) == third


def test_what_was_rolled_back_from_is_not_gone_back_to(config: Config) -> None:
    first, second, third = names(config)
    promote(config, 1)
    promotion.rollback(config, None)
    promote(config, 2)
    assert promotion.rollback(config, None) == (third, first)
    assert promotion.champions(config) == [first]
    promote(config, 1)
    promote(config, 2)
    promote(config, 0)  # an old one again, as a release: the way back is to what was before it
    assert promotion.rollback(config, None) == (first, third)
    assert promotion.champions(config) == [second, third]


def test_rollback_passes_over_what_is_broken_and_names_what_cannot_be(config: Config) -> None:
    first, second, third = names(config)
    promote(config, 1)
    promote(config, 2)
    (config.bundles / second / "popular.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"popular.npy: 0 bytes.*--to names a version"):
        promotion.rollback(config, second)
    with pytest.raises(InputError, match=r"version '../x': expected the plain name"):
        promotion.rollback(config, "../x")
    assert moved_as_one(config) == third
    assert promotion.rollback(config, None) == (third, first)
    assert moved_as_one(config) == first


def test_without_a_list_of_champions_each_older_version_counts_as_one(config: Config) -> None:
    first, second, third = names(config)
    promote(config, 2)
    (config.root / promotion.CHAMPIONS).unlink()
    assert promotion.champions(config) == [first, second, third]
    assert promotion.rollback(config, None) == (third, second)
    assert promotion.champions(config) == [first, second]


def unreachable(config: Config) -> Config:
    uri = f"sqlite:////proc/none/{config.root.name}.db"
    return config.model_copy(
        update={"tracking": config.tracking.model_validate({"uri": uri, "experiment": "shop"})}
    )


def test_an_alias_is_owed_while_mlflow_is_out_of_reach_and_set_by_the_next_finish(
    config: Config, said: list[str]
) -> None:
    first, second, _ = names(config)
    away = unreachable(config)
    promote(away, 1)
    assert (alias(config), current(config.bundles)) == (first, second)
    assert len([line for line in said if "WARNING" in line]) == 1
    assert len([line for line in said if "alias champion is owed" in line]) == 1
    assert not (config.root / promotion.INTENT).exists()
    promotion.finish(away)
    assert (config.root / promotion.OWED).exists()
    promotion.finish(config)
    assert moved_as_one(config) == second


def test_what_is_not_registered_moves_the_link_alone_until_it_is(config: Config, said: list[str]) -> None:
    run = "20240104-000000-dddddddd"
    version = stage_bundle(config, run, registered=False)
    promotion.promote(config, config.runs / run)
    assert current(config.bundles) == version
    assert any("is owed to" in line for line in said)
    client = mlflow.MlflowClient(tracking_uri=store.uri(config))
    client.create_model_version("shop", "x", tags={"bundle": version})
    promotion.finish(config)
    assert moved_as_one(config) == version


def test_pruning_keeps_the_newest_and_the_last_champions(config: Config, said: list[str]) -> None:
    first, second, third = names(config)
    promote(config, 1)
    few = config.model_copy(update={"export": config.export.model_copy(update={"keep": 2})})
    for day in range(4, 9):  # challengers that the gate did not let pass
        stage_bundle(config, f"2024010{day}-000000-eeeeeee{day}", registered=False)
    said.clear()
    promotion.prune(few)
    left = {name for name, _ in list_versions(config.bundles)}
    assert {first, second} < left
    assert third not in left
    assert len(left) == 4
    assert third in said[0]
    assert promotion.rollback(few, None) == (second, first)


# --- the commands, on a finished retrain ---


@pytest.fixture
def challenged(own_shop: Shop) -> Shop:
    """The shop's bundle is a challenger that shows each user another one's items."""
    bundles, folder = own_shop.config.bundles, bundle_of(own_shop)
    shutil.copytree(folder, bundles / "before")
    publish(bundles, "before")
    (own_shop.config.root / promotion.CHAMPIONS).unlink(missing_ok=True)
    held, fold = open_bundle(bundles / "before"), load_fold(own_shop.config, "test")
    shutil.rmtree(folder)
    write_bundle(
        folder,
        BundleContent(
            user_vectors=np.roll(held.user_vectors, 1, axis=0),
            item_vectors=np.asarray(held.item_vectors),
            user_ids=fold.user_ids,
            item_ids=fold.item_ids,
            seen=(held.seen_offsets, held.seen_items),
            popular=held.popular,
        ),
        IndexPlan(1, None, measured=held.manifest["measured"]),
        info=held.manifest["info"],
    )
    return own_shop


def test_a_gate_that_says_no_moves_nothing_and_exits_4(challenged: Shop) -> None:
    config = challenged.config
    before, link = alias(config), current(config.bundles)
    ran = recsys("promote", "--config", challenged.config_file)
    failed(ran, 4, "not promoted: ndcg@10 .", "may reach below -2 % of it")
    assert (alias(config), current(config.bundles)) == (before, link)
    assert ran.out == ""
    verdict = read(challenged.run)
    assert verdict is not None
    assert verdict.verdict == "fail"
    again = recsys("promote", "--config", challenged.config_file)
    failed(again, 4, "not promoted: ndcg@10 .")
    assert "gate.json is of these two bundles: reused" in again.err


def test_force_promotes_all_the_same_and_rollback_goes_back(challenged: Shop) -> None:
    config, command = challenged.config, ("--config", challenged.config_file)
    ran = recsys("promote", *command, "--force")
    assert ran.code == 0, ran.err
    assert "promoted by force; the gate says not promoted: ndcg@10" in ran.out
    assert moved_as_one(config) == bundle_of(challenged).name
    back = recsys("rollback", *command)
    assert back.code == 0, back.err
    assert back.out == f"{config.bundles / 'current'}: {bundle_of(challenged).name} -> before\n"
    assert current(config.bundles) == "before"
    forward = recsys("rollback", *command, "--to", bundle_of(challenged).name)
    assert forward.code == 0, forward.err
    assert moved_as_one(config) == bundle_of(challenged).name
    failed(recsys("rollback", *command, "--to", "nowhere"), 2, "nowhere/manifest.json: missing")


def test_a_challenger_that_passes_is_promoted_by_the_command(own_shop: Shop) -> None:
    config, version = own_shop.config, bundle_of(own_shop).name
    (config.bundles / "current").unlink()
    (own_shop.run / "gate.json").unlink()
    ran = recsys("promote", "--config", own_shop.config_file)
    assert ran.code == 0, ran.err
    assert ran.out == f"{version}\n"
    assert "popularity baseline: ndcg@10 ." in ran.err
    assert moved_as_one(config) == version
    again = recsys("promote", "--config", own_shop.config_file, "--run", own_shop.run.name)
    assert again.code == 0
    assert "is the champion already" in again.err
