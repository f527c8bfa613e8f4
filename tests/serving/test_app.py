"""Serving over HTTP: answers and errors over real sockets."""

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from paths import ROOT
from server import TIMEOUT, Server, command, publish_bundle, send, serving, wait_until

from serving.app import create_app, openapi
from serving.recommender import Recommender

HEAVY = {"torch", "duckdb", "polars", "mlflow", "pandas", "matplotlib", "rich", "scipy"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return publish_bundle(tmp_path_factory.mktemp("integers"))


@pytest.fixture(scope="module")
def shop(folder):
    return Recommender.open(folder / "current")


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def text_server(tmp_path_factory):
    with serving(publish_bundle(tmp_path_factory.mktemp("text"), text=True)) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with serving(publish_bundle(tmp_path_factory.mktemp("guarded")), RECSYS_TOKEN="s3cret ü") as server:
        yield server


def rows(items):
    return [one._asdict() for one in items]


def test_a_user_gets_the_answer_of_the_recommender(server: Server, shop):
    answer = server.ask("/v1/users/107/recommendations?k=4&exclude_seen=false")
    assert (answer.status, answer.headers["x-recsys-version"]) == (200, "v1")
    items = rows(shop.recommend(107, 4, exclude_seen=False))
    assert answer.json == {"version": "v1", "user_id": 107, "basis": "user", "items": items}


def test_unknown_users_get_the_popular_items(server: Server, shop):
    for name in ("1", "-5", "nobody", "9" * 400, "a/b", "%0A", "%00", "%F0%9F%90%88", "%FF"):
        answer = server.ask(f"/v1/users/{name}/recommendations?k=3")
        assert (answer.status, answer.json["basis"]) == (200, "popular"), name
        assert answer.json["items"] == rows(shop.recommend(k=3))


def test_a_batch_mixes_users_and_histories(server: Server, shop):
    users = [{"user_id": 103}, {"history": [1001, 1005, 77]}, {"user_id": "104"}, {"user_id": 5}, {}]
    filters = {
        "exclude": [1002, "1004"],
        "allow": list(range(1000, 1050)),
        "where": {"colour": ["red", "blue"]},
    }
    answer = server.ask("/v1/recommendations", {"users": users, "k": 6, **filters})
    assert (answer.status, answer.headers["x-recsys-version"]) == (200, "v1")
    filters["exclude"] = [1002, 1004]
    expected = [
        ("user", shop.recommend(103, 6, **filters)),
        ("history", shop.recommend(None, 6, history=[1001, 1005], **filters)),
        ("user", shop.recommend(104, 6, **filters)),
        ("popular", shop.recommend(None, 6, **filters)),
        ("popular", shop.recommend(None, 6, **filters)),
    ]
    results = answer.json["results"]
    assert [result["basis"] for result in results] == [basis for basis, _ in expected]
    for result, (_, items) in zip(results, expected, strict=True):
        assert [row["item_id"] for row in result["items"]] == [item.item_id for item in items]
        assert [row["score"] for row in result["items"]] == pytest.approx([item.score for item in items])


def test_similar_items_explanations_history_and_users(server: Server, shop):
    assert server.ask("/v1/items/1007/similar?k=3").json == {
        "version": "v1",
        "item_id": 1007,
        "items": rows(shop.similar_items(1007, 3)),
    }
    assert server.ask("/v1/explanations?user_id=104&item_id=1007&k=2").json == {
        "version": "v1",
        "user_id": 104,
        "item_id": 1007,
        "items": rows(shop.explain(104, 1007, 2)),
    }
    own = rows(shop.history(104))
    assert server.ask("/v1/users/104/history").json == {
        "version": "v1",
        "user_id": 104,
        "n_items": len(own),
        "items": own,
    }
    assert server.ask("/v1/users/104/history?limit=2").json["items"] == own[:2]
    some = server.ask("/v1/users?limit=4").json
    assert some == {"version": "v1", "n_users": 40, "users": shop.some_users(4)}


def test_ids_of_text_with_slashes(text_server: Server):
    items = text_server.ask("/v1/users/user%2007/recommendations?k=2").json["items"]
    assert all(item["item_id"].startswith("item/") for item in items)
    for form in ("item/005 ü", "item%2F005%20%C3%BC"):
        path = form if "%" in form else quote(form)
        assert text_server.ask(f"/v1/items/{path}/similar").json["item_id"] == "item/005 ü"
    explained = text_server.ask("/v1/explanations?user_id=user+07&item_id=item/005+%C3%BC")
    assert (explained.status, explained.json["user_id"]) == (200, "user 07")
    batch = text_server.ask("/v1/recommendations", {"users": [{"history": ["item/005 ü", 3]}], "k": 2})
    assert batch.json["results"][0]["basis"] == "history"


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/items/7/similar", "7"),
        ("/v1/items/no/such/similar", "no/such"),
        ("/v1/users/7/history", "7"),
        ("/v1/explanations?user_id=7&item_id=1001", "7"),
        ("/v1/explanations?user_id=101&item_id=x", "x"),
    ],
)
def test_unknown_ids_are_named(server: Server, path, named):
    answer = server.ask(path)
    assert (answer.status, answer.headers["x-recsys-version"]) == (404, "v1")
    assert named in answer.json["detail"]


BATCH = "/v1/recommendations"
ONE = {"users": [{"user_id": 101}]}


@pytest.mark.parametrize(
    ("path", "body", "rule"),
    [
        ("/v1/users/101/recommendations?k=0", None, "k = '0': .*greater than or equal to 1"),
        ("/v1/users/101/recommendations?k=1001", None, "k = '1001': .*less than or equal to 1000"),
        ("/v1/users/101/recommendations?k=ten", None, "k = 'ten': .*integer"),
        ("/v1/users/101/recommendations?exclude_seen=maybe", None, "exclude_seen = 'maybe'"),
        (f"/v1/users/{'x' * 513}/recommendations", None, "user_id: .*at most 512"),
        (f"/v1/items/{'x' * 513}/similar", None, "item_id: .*at most 512"),
        ("/v1/users?limit=1001", None, "limit = '1001': .*less than or equal to 1000"),
        ("/v1/explanations?user_id=1", None, "item_id: Field required"),
        (BATCH, ONE | {"k": 1001}, "k = 1001: .*less than or equal to 1000"),
        (BATCH, ONE | {"k": "10"}, "k = '10': .*integer"),
        (BATCH, ONE | {"k": True}, "k = True: .*integer"),
        (BATCH, ONE | {"exlude": []}, "exlude: Extra inputs are not permitted"),
        (BATCH, {"users": []}, "users: .*at least 1"),
        (BATCH, {"users": [{"user_id": 1}] * 1001}, "users: .*at most 1000"),
        (BATCH, {"users": [{"history": [1] * 10_001}]}, "history: .*at most 10000"),
        (BATCH, {"users": [{"user_id": 2**63}]}, "user_id.*less than"),
        (BATCH, {"users": [{"user_id": 1.5}]}, "user_id.* = 1.5"),
        (BATCH, {"users": [{"user_id": False}]}, "user_id.* = False"),
        (BATCH, {"users": [{"user_id": "x" * 513}]}, "user_id.*at most 512"),
        (BATCH, {"users": [1] * 9}, "users.4.*; and 4 more"),
        (BATCH, b'{"users": [{"user_id": "\\ud800"}]}', "user_id"),
        (BATCH, ONE | {"where": {"size": ["L"]}}, "where: attribute 'size' is unknown, allowed: colour"),
        (BATCH, b"{", "body: not JSON .*at character"),
        (BATCH, b"", "body: Field required"),
        (BATCH, b"[" * 100_000, "body: JSON that cannot be read"),
        (BATCH, b"9" * 5000, "body: JSON that cannot be read"),
        (BATCH, b'{"users": [{"user_id": 1}], "k": NaN}', "k = nan: .*integer"),
        (BATCH, b" " * (2**20 + 1), "the body is larger than 1048576 bytes"),
    ],
)
def test_a_request_outside_the_limits_names_the_rule(server: Server, path, body, rule):
    answer = server.ask(path, body)
    assert answer.status == 422
    assert answer.json.keys() == {"detail"}
    assert re.search(rule, answer.json["detail"]), answer.json["detail"]


def test_the_limits_themselves_are_allowed(server: Server):
    full = {"users": [{"user_id": 101}] * 1000, "k": 1000}
    assert len(server.ask(BATCH, full).json["results"]) == 1000
    assert server.ask(BATCH, {"users": [{"history": [1001] * 10_000}]}).status == 200
    assert server.ask(f"/v1/users/{'x' * 512}/recommendations?k=1000").status == 200
    body = json.dumps(ONE).encode()
    assert server.ask(BATCH, body + b" " * (2**20 - len(body))).status == 200


def test_a_body_without_a_length_is_limited_too(server: Server):
    for chunks, status in (([json.dumps(ONE).encode()], 200), ([b" " * 2**16] * 17, 422)):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        connection.request(
            "POST", BATCH, iter(chunks), {"Content-Type": "application/json"}, encode_chunked=True
        )
        answer = connection.getresponse()
        assert (answer.status, b"detail" in answer.read()) == (status, status == 422)
        connection.close()


def test_a_client_may_leave_in_the_middle_of_its_body(server: Server):
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    wait_until(lambda: b'status="499"' in server.ask("/metrics").body)
    assert server.ask("/health/live").status == 200


@pytest.mark.parametrize(
    "path", ["/v1/users", "/v1/users/101/recommendations", "/version", "/metrics", "/nope"]
)
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic s3cret", "Bearer s3cret"])
def test_without_the_token_requests_are_refused(guarded: Server, path, header):
    answer = guarded.ask(path, **({} if header is None else {"Authorization": header}))
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "Authorization: Bearer TOKEN" in answer.json["detail"]


def test_only_health_and_the_page_need_no_token(guarded: Server):
    token = "Bearer s3cret ü".encode().decode("latin-1")
    for path in ("/v1/users", "/v1/users/101/recommendations", "/version", "/metrics"):
        assert guarded.ask(path, Authorization=token).status == 200
    assert guarded.ask(BATCH, ONE, Authorization=token).status == 200
    assert guarded.ask(BATCH, ONE).status == 401
    for path in ("/", "/health/live", "/health/ready", "/openapi.json"):
        assert guarded.ask(path).status == 200


def test_version_describes_the_bundle(server: Server, shop):
    about = server.ask("/version").json
    assert about["measured"]["curve"][0]["recall"] == shop.manifest["measured"]["curve"][0]["recall"]
    assert (about["version"], about["n_users"], about["n_items"], about["attributes"]) == (
        "v1",
        40,
        60,
        ["colour"],
    )
    assert (about["trees"], about["search_k"], about["dim"], about["format_version"]) == (8, 400, 6, 1)
    assert about["has_integer_users"] is True


def test_requests_are_counted_by_route_and_status(server: Server):
    server.ask("/v1/users/101/history")
    server.ask("/v1/users/9/history")
    server.ask("/no/such/place")
    server.ask("/no/such/place", method="PROPFIND")
    text = server.ask("/metrics").body.decode()
    for route, method, status in (
        ("/v1/users/{user_id}/history", "GET", 200),
        ("/v1/users/{user_id}/history", "GET", 404),
        ("unmatched", "GET", 404),
        ("unmatched", "other", 404),
    ):
        assert f'recsys_http_requests_total{{method="{method}",route="{route}",status="{status}"}}' in text
    assert 'recsys_http_request_seconds_bucket{le="0.005",route="/v1/users/{user_id}/history"}' in text
    assert 'recsys_bundle_info{version="v1"} 1.0' in text
    assert "101" not in re.sub(r"\d+\.\d+|e[+-]\d+", "", text)  # no id becomes a label


def test_the_page_may_load_nothing_from_elsewhere(server: Server):
    answer = server.ask("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(rb"""(?:src|href)=["'](?!data:)""", answer.body)


def test_a_connection_is_kept_over_many_requests(server: Server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    for user in range(100, 140):
        assert send(connection, f"/v1/users/{user}/recommendations").json["user_id"] == user
    socket_before = connection.sock
    send(connection, "/version")
    assert connection.sock is socket_before
    connection.close()


def test_every_endpoint_has_a_typed_answer():
    document = openapi(create_app())
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            schema = next(iter(answers["200"]["content"].values()))["schema"]
            assert schema, path
            if path.startswith("/v1"):
                assert answers.keys() >= {"200", "401", "422", "503"}
                assert operation["security"] == [{"token": []}]


CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_generated_requests_get_documented_answers(server: Server, mode):
    """Valid and invalid requests by the OpenAPI document: never a 5xx, always a documented answer."""
    document = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    asked = set()
    for operation in (found.ok() for found in document.get_all_operations()):

        @settings(
            max_examples=50,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case):
            asked.add(case.operation.path)
            case.call_and_validate(checks=CHECKS)

        with contextlib.suppress(Unsatisfiable):  # without parameters there is nothing to get wrong
            ask()
    assert "/v1/recommendations" in asked


def test_serving_loads_nothing_heavy_and_starts_nothing():
    script = (
        "import sys, threading, serving.app; print(*sys.modules); assert threading.active_count() == 1;"
        "assert not hasattr(serving.app.app.state, 'service')"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {name.partition(".")[0] for name in ran.stdout.split()} & HEAVY


def run_command(*arguments, **environment):
    """Exit code and error output of a `recsys serve` that ends at once."""
    ran = subprocess.run(
        command(*arguments),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=TIMEOUT,
        check=False,
    )
    assert "Traceback" not in ran.stderr
    return ran.returncode, ran.stderr


def test_the_command_names_wrong_arguments(tmp_path: Path, folder: Path):
    code, message = run_command("--bundles", tmp_path)
    assert (code, message.strip()) == (
        2,
        f"recsys: {tmp_path}/current: No such file or directory; "
        "--bundles names the folder that export fills",
    )
    code, message = run_command("--bundles", folder, RECSYS_TOKEN=" ")
    assert code == 2
    assert "RECSYS_TOKEN is set but empty" in message
    code, message = run_command("--bundles", folder, "--workers", "0")
    assert code == 2
    assert "'--workers'" in message
    code, message = run_command("--bundles", folder, RECSYS_POLL_SECONDS="soon")
    assert code == 2
    assert "RECSYS_POLL_SECONDS" in message
    code, message = run_command()
    assert code == 2
    assert "'--bundles'" in message


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_no_crash(folder: Path, server: Server, workers):
    code, message = run_command("--bundles", folder, "--port", str(server.port), "--workers", workers)
    assert code == 1
    assert "address already in use" in message.lower()


def test_an_open_address_without_a_token_is_warned_about(folder: Path):
    with serving(folder, "--host", "0.0.0.0") as server:
        assert "no RECSYS_TOKEN: any client that reaches 0.0.0.0:0 is served" in server.log.read_text()


def test_ci_runs_the_commands_of_the_dockerfile():
    """.ci/image extracts the Dockerfile's lines; no Python step may be left out."""
    dockerfile = (ROOT / "serving" / "Dockerfile").read_text(encoding="utf-8")
    steps = [line for line in dockerfile.splitlines() if line.startswith("RUN ") and "PREFIX" in line]
    assert len(steps) == 4
    script = (ROOT / ".ci" / "image").read_text(encoding="utf-8")
    pattern = re.search(r"sed -n '(.+)' serving/Dockerfile", script)
    assert pattern
    taken = subprocess.run(
        ["sed", "-n", pattern[1], str(ROOT / "serving" / "Dockerfile")],
        capture_output=True,
        text=True,
        check=True,
    )
    for step in steps:
        if "apt-get" not in step and "useradd" not in step:
            assert step.removeprefix("RUN ") in taken.stdout.splitlines()
    assert any(line.startswith("export ANNOY_COMPILER_ARGS=") for line in taken.stdout.splitlines())


@pytest.mark.parametrize(
    "path", ["/v1/users/101/recommendations", "/v1/users/101/history", "/v1/users", "/version"]
)
def test_unknown_query_parameters_are_refused(server: Server, path):
    answer = server.ask(f"{path}?department=x")
    assert answer.status == 422
    assert "query parameter 'department' is unknown, allowed: " in answer.json["detail"]


def test_an_empty_id_is_refused(server: Server):
    assert server.ask("/v1/users//recommendations").status == 422


ABOVE = 2**60 + 1  # not exact as a float


def ids_in(content):
    """Every id in an answer."""
    if isinstance(content, list):
        return [one for part in content for one in ids_in(part)]
    found = [content[key] for key in ("user_id", "item_id") if key in content]
    return [
        *found,
        *content.get("users", []),
        *ids_in(content.get("items", [])),
        *ids_in(content.get("results", [])),
    ]


def with_text_ids(content):
    """The same answer with its ids as text."""
    if isinstance(content, list):
        return [with_text_ids(part) for part in content]
    if not isinstance(content, dict):
        return content
    ids = {"user_id", "item_id"}
    changed = {key: str(value) if key in ids else with_text_ids(value) for key, value in content.items()}
    return changed | ({"users": [str(user) for user in content["users"]]} if "users" in content else {})


def test_ids_are_text_on_request_and_else_as_in_the_bundle(tmp_path: Path):
    user, item = 100 + ABOVE, 1000 + ABOVE
    paths = [
        f"/v1/users/{user}/recommendations?k=3",
        "/v1/users/1/recommendations?k=3",
        f"/v1/users/{user}/history?limit=9",
        f"/v1/items/{item}/similar?k=3",
        f"/v1/explanations?user_id={user}&item_id={item}",
        "/v1/users?limit=3",
        BATCH + "?",
    ]
    batch = {"users": [{"user_id": str(user)}, {"user_id": user}, {"history": [str(item)]}, {}], "k": 3}
    with serving(publish_bundle(tmp_path / "bundles", above=ABOVE)) as server:
        document = server.ask("/openapi.json").json["paths"]
        for path in paths:
            body = batch if path.startswith(BATCH) else None
            plain = server.ask(path.rstrip("?"), body)
            assert plain.status == 200
            assert {type(one) for one in ids_in(plain.json)} == {int}
            assert min(one for one in ids_in(plain.json) if one != 1) >= ABOVE
            assert server.ask(f"{path}&ids_as_text=false", body).json == plain.json
            assert server.ask(f"{path}&ids_as_text=true", body).json == with_text_ids(plain.json)
            assert "ids_as_text = 'maybe'" in server.ask(f"{path}&ids_as_text=maybe", body).json["detail"]
        assert server.ask(BATCH, batch).json["results"][0] == server.ask(BATCH, batch).json["results"][1]
        for path, operations in document.items():
            for operation in operations.values():
                assert path.startswith("/v1/") == any(
                    parameter["name"] == "ids_as_text" for parameter in operation.get("parameters", [])
                ), path


def test_ids_as_text_does_not_change_ids_of_text(text_server: Server):
    path = "/v1/users/user%2007/recommendations"
    assert text_server.ask(path).json == text_server.ask(f"{path}?ids_as_text=1").json


def raw(server: Server, request: bytes) -> http.client.HTTPResponse:
    """Send bytes as they are, and read until the end of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as connection:
        connection.sendall(request)
        method = request.partition(b" ")[0].decode()
        answer = http.client.HTTPResponse(connection, method=method)
        answer.begin()
        answer.content = answer.read()
        return answer


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live", "/"])
@pytest.mark.parametrize("form", ["{}", "{}/", "/{}", "http://shop.example:80{}"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_health_checks_of_load_balancers_are_answered(guarded: Server, path, form, method):
    """Without the token, by either version of HTTP, with any host or none."""
    for end in (
        "HTTP/1.0\r\n\r\n",
        "HTTP/1.0\r\nHost: 10.0.0.7\r\nConnection: keep-alive\r\n\r\n",
        "HTTP/1.1\r\nHost: \r\nUser-Agent: ELB-HealthChecker/2.0\r\n\r\n",
        "HTTP/1.1\r\nHost: [fe80::1]:8000\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ):
        answer = raw(guarded, f"{method} {form.format(path)} {end}".encode())
        assert answer.status == (204 if method == "OPTIONS" else 200), end
        if method == "OPTIONS":
            assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
        assert (answer.content != b"") == (method == "GET")
        if method == "HEAD":
            assert int(answer.headers["content-length"]) > 0


def test_options_of_the_server_and_of_a_post_endpoint(server: Server):
    assert raw(server, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").status == 204
    answer = server.ask(BATCH, method="OPTIONS")
    assert (answer.status, answer.headers["allow"], answer.body) == (204, "OPTIONS, POST", b"")
    assert server.ask("/no/such/place", method="OPTIONS").status == 404
    assert 'method="OPTIONS",route="/v1/recommendations",status="204"' in server.ask("/metrics").body.decode()


def test_a_wrong_method_is_answered_with_the_allowed_ones(server: Server):
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"):
        answer = server.ask("/health/ready", method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert (
            f"method {method} is not allowed for this path, allowed: GET, HEAD, OPTIONS"
            in answer.json["detail"]
        )
    assert "allowed: OPTIONS, POST" in server.ask(BATCH).json["detail"]
    assert server.ask(BATCH, method="HEAD").status == 405


def test_head_is_get_without_the_body(server: Server, guarded: Server):
    for path in (
        "/v1/users/101/recommendations",
        "/v1/items/7/similar",
        "/version",
        "/nope",
        "/v1/users?limit=x",
    ):
        get, head = server.ask(path), server.ask(path, method="HEAD")
        assert (head.status, head.body) == (get.status, b"")
        assert head.headers["content-length"] == get.headers["content-length"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    for _ in range(3):  # no rest of an answer is left on the connection
        assert send(connection, "/version", method="HEAD").status == 200
        assert send(connection, "/version").json["version"] == "v1"
    connection.close()
    assert guarded.ask("/version", method="HEAD").status == 401
    assert guarded.ask("/version", method="OPTIONS").status == 401
    assert 'method="HEAD",route="/version",status="200"' in server.ask("/metrics").body.decode()


@pytest.mark.parametrize("path", ["/version//", "//version", "/v1/users/a//recommendations/"])
def test_outer_slashes_are_ignored_and_inner_ones_kept(server: Server, path):
    answer = server.ask(path)
    assert answer.status == 200
    assert answer.json.get("user_id", "a/") == "a/"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ("", "the header Content-Type is missing, expected 'Content-Type: application/json'"),
        ("Content-Type:\r\n", "the header Content-Type is missing"),
        (
            "Content-Type: application/x-www-form-urlencoded\r\n",
            "the header is 'Content-Type: application/x-www-form-urlencoded', expected 'Content-Type: app",
        ),
        ("Content-Type: text/plain; charset=utf-8\r\n", "the header is 'Content-Type: text/plain; charset"),
        (
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
            "the header 'Content-Encoding: gzip' is not supported: send the body uncompressed",
        ),
    ],
)
@pytest.mark.parametrize("body", [json.dumps(ONE).encode(), b"\x1f\x8b\x08\x00\xff"])
def test_an_unread_body_names_the_header_that_is_wrong(server: Server, headers, message, body):
    head = f"POST {BATCH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    if "gzip" in headers and body.startswith(b"{"):
        body = b"\x1f" + body[1:]
    answer = raw(server, head.encode() + body)
    assert answer.status == 422
    assert message in json.loads(answer.content)["detail"]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"]
)
def test_all_content_types_of_json_are_read(server: Server, kind):
    assert server.ask(BATCH, ONE, **{"Content-Type": kind}).status == 200
    assert "users: Field required" in server.ask(BATCH, {"k": 1}, **{"Content-Type": kind}).json["detail"]
    latin = '{"users": [{"user_id": "ü"}]}'.encode("latin-1")
    assert "or not UTF-8" in server.ask(BATCH, latin, **{"Content-Type": kind}).json["detail"]
