"""A client process that sends requests without a pause until its input closes, and checks every answer.

python load.py PORT EXPECTED REPORT: EXPECTED holds {version: {path or body: answer}}.
"""

import http.client
import json
import sys
import threading
from pathlib import Path
from typing import Any

from server import Answer, send

CLIENTS = 4


def ask(connection: http.client.HTTPConnection, request: str) -> Answer:
    return (
        send(connection, request)
        if request.startswith("/")
        else send(connection, "/v1/recommendations", request.encode())
    )


def run(port: int, expected: dict[str, dict[str, Any]], stop: threading.Event, found: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    requests = list(next(iter(expected.values())))
    asked, versions, errors = 0, set(), []
    while not stop.is_set() and len(errors) < 5:
        request = requests[asked % len(requests)]
        asked += 1
        try:
            answer = ask(connection, request)
            version = answer.headers["x-recsys-version"]
            versions.add(version)
            if answer.status != 200 or answer.json != expected[version][request]:
                errors.append(f"{answer.status} {version}: {request}: {answer.body[:300]!r}")
        except Exception as error:
            errors.append(f"{request}: {error!r}")
            connection.close()
    connection.close()
    found |= {"asked": asked, "versions": sorted(versions), "errors": errors}


def main() -> None:
    port, expected, report = int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    stop, found = threading.Event(), [{} for _ in range(CLIENTS)]
    threads = [threading.Thread(target=run, args=(port, expected, stop, one)) for one in found]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    report.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
