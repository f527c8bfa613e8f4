"""The live bundle is replaced during requests: only by a valid one, and never halfway."""

import gc
import http.client
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from server import Server, publish_bundle, serving, wait_until, write_version

from recsys.releases import publish
from serving.live import Live
from serving.recommender import Recommender

SWAPS, CORRUPT = 100, 10  # every tenth is to a bundle that must be refused
VERSIONS = ("v1", "v2", "v3")


def set_current(bundles: Path, target: str) -> None:
    """publish() without verification."""
    (bundles / "next").symlink_to(target)
    os.replace(bundles / "next", bundles / "current")


class Watched:
    """A Live that is refreshed by hand, and its callbacks' records."""

    def __init__(self, bundles: Path) -> None:
        self.opened: list[str] = []
        self.refused = 0
        self.live = Live(bundles, 3600, self.opened.append, self._refuse)

    def _refuse(self) -> None:
        self.refused += 1

    def refresh(self) -> tuple[str | None, int]:
        self.live.refresh()
        return self.live.recommender and self.live.recommender.version, self.refused


def test_a_new_current_is_opened_once(tmp_path: Path) -> None:
    watched = Watched(publish_bundle(tmp_path))
    write_version(tmp_path, "v2", seed=1)
    assert [watched.refresh(), watched.refresh()] == [("v1", 0)] * 2
    publish(tmp_path, "v2")
    assert [watched.refresh(), watched.refresh()] == [("v2", 0)] * 2
    publish(tmp_path, "v1")
    assert watched.refresh() == ("v1", 0)
    assert watched.opened == ["v1", "v2", "v1"]


def test_a_corrupt_bundle_is_refused_once_and_tried_again_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(publish_bundle(tmp_path))
    watched.refresh()
    broken = write_version(tmp_path, "v2", seed=1) / "item_vectors.npy"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    set_current(tmp_path, "v2")
    assert [watched.refresh(), watched.refresh(), watched.refresh()] == [("v1", 1)] * 3
    assert "item_vectors.npy: SHA-256 differs from the manifest; bundle v1 stays live" in caplog.text
    broken.write_bytes(whole[:-1])
    assert [watched.refresh(), watched.refresh()] == [("v1", 2)] * 2
    broken.write_bytes(whole)
    assert [watched.refresh(), watched.refresh()] == [("v2", 2)] * 2


def test_a_broken_link_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(publish_bundle(tmp_path))
    watched.refresh()
    for refused, target in enumerate(("nothing", "current", "v1/manifest.json"), start=1):
        set_current(tmp_path, target)
        assert [watched.refresh(), watched.refresh()] == [("v1", refused)] * 2
    (tmp_path / "current").unlink()
    assert watched.refresh() == ("v1", 4)
    set_current(tmp_path, "v1")
    assert watched.refresh() == ("v1", 4)
    assert f"refused: {tmp_path}/current: No such file or directory" in caplog.text


def test_the_server_waits_for_the_first_bundle(tmp_path: Path) -> None:
    with serving(publish_bundle(tmp_path), ready=False) as server:
        wait_until(lambda: server.ask("/health/ready").status == 200)
    (tmp_path / "current").unlink()
    (tmp_path / "empty").mkdir()
    set_current(tmp_path, "empty")  # not a bundle, but enough for the server to start
    with serving(tmp_path, ready=False) as server:
        for path in ("/health/ready", "/version", "/v1/users", "/v1/users/101/recommendations"):
            answer = server.ask(path)
            assert answer.status == 503
            assert "no bundle is open" in answer.json["detail"]
            assert "manifest.json: missing" in answer.json["detail"]
        assert server.ask("/health/live").status == 200
        publish(tmp_path, "v1")
        wait_until(lambda: server.ask("/health/ready").status == 200)
        assert server.metric("recsys_bundle_swaps_total") == 0
        assert server.metric("recsys_bundles_refused_total") == 1


def test_an_old_bundle_is_unmapped_after_its_last_request(tmp_path: Path) -> None:
    watched = Watched(publish_bundle(tmp_path))
    write_version(tmp_path, "v2", seed=1)
    watched.refresh()
    gc.disable()
    try:
        request = watched.live.recommender
        publish(tmp_path, "v2")
        watched.refresh()
        assert request is not None
        assert request.version == "v1"
        assert str(tmp_path / "v1") in maps(os.getpid())
        del request
        assert str(tmp_path / "v1") not in maps(os.getpid())
        assert str(tmp_path / "v2") in maps(os.getpid())
    finally:
        gc.enable()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_poll_seconds_must_be_positive_and_finite(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"poll_seconds = {seconds}, allowed"):
        Live(tmp_path, seconds)


def maps(process: int) -> str:
    return Path(f"/proc/{process}/maps").read_text()


def memory(process: int) -> int:
    """The process's own memory in KiB, without mapped files, which change with the bundles."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def questions(shop: Recommender) -> dict[str, object]:
    """Requests under load, and the answers of a version."""
    paths: dict[str, object] = {}
    for user in range(100, 110):
        items = as_json(shop.recommend(user, 10))
        paths[f"/v1/users/{user}/recommendations?k=10"] = {
            "version": shop.version,
            "user_id": user,
            "basis": "user",
            "items": items,
        }
    for item in range(1000, 1005):
        paths[f"/v1/items/{item}/similar?k=5"] = {
            "version": shop.version,
            "item_id": item,
            "items": as_json(shop.similar_items(item, 5)),
        }
    many = list(range(100, 140))
    results = [{"basis": "user", "items": as_json(items)} for items in shop.recommend_many(many, 20)]
    body = json.dumps({"users": [{"user_id": user} for user in many], "k": 20})
    paths[body] = {"version": shop.version, "results": results}
    return paths


def as_json(items) -> list[dict[str, object]]:
    return [one._asdict() for one in items]


def write_broken(bundles: Path) -> list[str]:
    """Write versions that must be refused, each for another reason."""
    shutil.copytree(bundles / "v1", bundles / "flipped")
    path = bundles / "flipped" / "user_vectors.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    shutil.copytree(bundles / "v1", bundles / "cut")
    os.truncate(bundles / "cut" / "index.ann", 100)
    shutil.copytree(bundles / "v1", bundles / "headless")
    (bundles / "headless" / "manifest.json").unlink()
    shutil.copytree(bundles / "v1", bundles / "newer")
    manifest = bundles / "newer" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 99'))
    return ["flipped", "cut", "headless", "newer", "missing"]


def test_a_hundred_swaps_under_load_without_a_failed_or_mixed_answer(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    for seed, version in enumerate(VERSIONS):
        write_version(bundles, version, seed)
    publish(bundles, "v1")
    bad = write_broken(bundles)
    (tmp_path / "expected.json").write_text(
        json.dumps({version: questions(Recommender.open(bundles / version)) for version in VERSIONS})
    )
    with serving(bundles) as server:
        load = subprocess.Popen(
            [
                sys.executable,
                "load.py",
                str(server.port),
                tmp_path / "expected.json",
                tmp_path / "report.json",
            ],
            stdin=subprocess.PIPE,
            cwd=ROOT / "tests" / "support",
        )
        try:
            warm = swap_often(server, bundles, bad)
            load.communicate()
        finally:
            load.kill()
            load.wait()
        assert load.returncode == 0
        reports = json.loads((tmp_path / "report.json").read_text())
        assert [error for report in reports for error in report["errors"]] == []
        assert {version for report in reports for version in report["versions"]} == set(VERSIONS)
        assert min(report["asked"] for report in reports) > SWAPS
        assert server.metric("recsys_bundle_swaps_total") == SWAPS - CORRUPT
        assert server.metric("recsys_bundles_refused_total") == CORRUPT
        assert server.metric("recsys_bundle_info") == 1
        end = memory(server.process.pid)
        print(
            f"asked {sum(report['asked'] for report in reports)}, KiB after 20 swaps {warm}, at the end {end}"
        )
        assert end - warm < 4096
        live = server.ask("/version").json["version"]
        wait_until(
            lambda: {name for name in (*VERSIONS, *bad) if f"/{name}/" in maps(server.process.pid)} == {live}
        )
        log = server.log.read_text()
        assert log.count("refused: ") == CORRUPT
        for reason in (
            "SHA-256 differs",
            "100 bytes, the manifest says",
            "manifest.json: missing",
            "format_version 99",
        ):
            assert reason in log


def swap_often(server: Server, bundles: Path, bad: list[str]) -> int:
    """Swap SWAPS times, each time until it is live; the server's memory after the first twenty."""
    warm = refusals = 0
    live = "v1"
    for swap in range(1, SWAPS + 1):
        if swap % (SWAPS // CORRUPT) == 0:
            set_current(bundles, bad[refusals % len(bad)])
            refusals += 1
            wait_until(lambda count=refusals: server.metric("recsys_bundles_refused_total") == count)
            assert server.ask("/version").json["version"] == live
        else:
            live = VERSIONS[(VERSIONS.index(live) + 1) % len(VERSIONS)]
            publish(bundles, live)
            wait_until(lambda wanted=live: server.ask("/version").json["version"] == wanted)
        if swap == 20:
            warm = memory(server.process.pid)
    return warm


def test_workers_share_metrics_without_those_that_ended(tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    with serving(tmp_path, "--workers", "2") as server:
        wait_until(lambda: server.metric("recsys_bundle_info") == 2)
        for _ in range(50):
            assert server.ask("/v1/users/101/history").status == 200
        counted = (
            'recsys_http_requests_total{method="GET",route="/v1/users/{user_id}/history",status="200"} 50.0'
        )
        assert counted in server.ask("/metrics").body.decode()
        victim = workers(server)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in workers(server) and server.process.poll() is None)
        wait_until(
            lambda: (
                len(workers(server)) == 2 and server.is_ready() and server.metric("recsys_bundle_info") == 2
            )
        )
        assert counted in server.ask("/metrics").body.decode()
        write_version(tmp_path, "v2", seed=1)
        publish(tmp_path, "v2")
        wait_until(lambda: 'recsys_bundle_info{version="v2"} 2.0' in server.ask("/metrics").body.decode())
        folder = metrics_folder(server)
        assert folder.is_dir()
    assert not folder.exists()


def workers(server: Server) -> list[int]:
    """Process ids of the workers: the command's children that run a spawned interpreter."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    found = []
    for child in map(int, children):
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
        except FileNotFoundError:
            continue
    return found


def metrics_folder(server: Server) -> Path:
    environment = Path(f"/proc/{workers(server)[0]}/environ").read_bytes().split(b"\0")
    value = next(line for line in environment if line.startswith(b"PROMETHEUS_MULTIPROC_DIR="))
    return Path(value.partition(b"=")[2].decode())


def test_running_requests_finish_before_the_server_stops(tmp_path: Path) -> None:
    """SIGTERM comes between the headers of a request and its body; the answer is still complete."""
    body = json.dumps({"users": [{"user_id": 101}] * 50, "k": 10}).encode()
    head = f"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
    with (
        serving(publish_bundle(tmp_path)) as server,
        socket.create_connection(("127.0.0.1", server.port)) as raw,
    ):
        raw.sendall(head.encode())
        assert raw.recv(25).startswith(b"HTTP/1.1 100 Continue")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Shutting down" in server.log.read_text())
        raw.sendall(body)
        answer = http.client.HTTPResponse(raw)
        answer.begin()
        assert answer.status == 200
        assert len(json.loads(answer.read())["results"]) == 50


def test_nothing_is_logged_while_nothing_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serving")
    watched = Watched(publish_bundle(tmp_path))
    for _ in range(5):
        watched.refresh()
    assert [record.message for record in caplog.records] == ["bundle v1 is live"]
