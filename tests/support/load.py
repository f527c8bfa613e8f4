"""A client in a process of its own: asks without a pause until its input closes, and checks every answer.

python load.py PORT EXPECTED REPORT: EXPECTED holds {version: {question: answer}} for the path or body asked.
"""

import http.client
import json
import sys
import threading
from pathlib import Path
from typing import Any

from server import Answer, sent

CLIENTS = 4


def ask(connection: http.client.HTTPConnection, question: str) -> Answer:
    return (
        sent(connection, question)
        if question.startswith("/")
        else sent(connection, "/v1/recommendations", question.encode())
    )


def run(port: int, expected: dict[str, dict[str, Any]], stop: threading.Event, found: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    questions = list(next(iter(expected.values())))
    asked, versions, faults = 0, set(), []
    while not stop.is_set() and len(faults) < 5:
        question = questions[asked % len(questions)]
        asked += 1
        try:
            answer = ask(connection, question)
            version = answer.headers["x-recsys-version"]
            versions.add(version)
            if answer.status != 200 or answer.json != expected[version][question]:
                faults.append(f"{answer.status} {version}: {question}: {answer.body[:300]!r}")
        except Exception as error:
            faults.append(f"{question}: {error!r}")
            connection.close()
    connection.close()
    found |= {"asked": asked, "versions": sorted(versions), "faults": faults}


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
