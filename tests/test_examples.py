"""The scheduling examples: each runs a valid `recsys retrain` and handles its exit codes."""

import configparser
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import typer
from paths import ROOT

from pipelines import cli

EXAMPLES = ROOT / "examples"
HOME = "/srv/recsys"
SERVICE, TIMER = EXAMPLES / "recsys-retrain.service", EXAMPLES / "recsys-retrain.timer"


def cron_line() -> tuple[str, str]:
    """The schedule and the shell command."""
    lines = (EXAMPLES / "crontab").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line and not line.startswith("#") and "=" not in line.split()[0])
    fields = line.split(maxsplit=5)
    return " ".join(fields[:5]), fields[5]


def read_unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


class FailedWithoutRetry(Exception):
    """Replaces AirflowFailException."""


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments that the file passes to Airflow, which is replaced by a stub."""
    passed: dict[str, Any] = {}

    class Dag:
        def __init__(self, name: str, **settings: Any) -> None:
            passed.update(settings)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    contents: dict[str, dict[str, Any]] = {
        "airflow.providers.standard.operators.bash": {"BashOperator": passed.update},
        "airflow.sdk": {"DAG": Dag},
        "airflow.sdk.exceptions": {"AirflowFailException": FailedWithoutRetry},
    }
    for name, content in contents.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    runpy.run_path(str(EXAMPLES / "airflow_dag.py"))
    return passed


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a `recsys` that ends with the exit code $CODE."""
    command = tmp_path / ".venv" / "bin" / "recsys"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\necho "arguments: $*"\necho "last words" >&2\nexit "$CODE"\n')
    command.chmod(0o755)
    return tmp_path


def retrain_arguments(command: str) -> list[str]:
    """The arguments of each `recsys retrain` in a shell command."""
    return re.findall(r"\.venv/bin/recsys (retrain [^>;]+)", command)


def parse_arguments(arguments: str) -> dict[str, Any]:
    """The arguments parsed by the command line. Raises UsageError."""
    group: Any = typer.main.get_command(cli.app)
    name, *rest = shlex.split(arguments)
    with group.commands[name].make_context(name, rest) as context:
        return dict(context.params)


def test_all_three_run_a_valid_retrain(dag: dict[str, Any]) -> None:
    when, cron = cron_line()
    service = read_unit(SERVICE)["Service"]
    found = [retrain_arguments(text) for text in (cron, service["ExecStart"], dag["bash_command"])]
    assert [len(commands) for commands in found] == [1, 1, 1]
    for (arguments,) in found:
        params = parse_arguments(arguments)
        assert params["config"] == Path("shop.toml")
        assert not params["dry_run"]
    with pytest.raises(Exception, match="No such option"):
        parse_arguments("retrain --config shop.toml --no-such-option")
    assert cron.startswith(f"cd {HOME} && ")
    assert service["WorkingDirectory"] == dag["cwd"] == HOME
    assert when == dag["schedule"] == "30 3 * * *"
    assert read_unit(TIMER)["Timer"]["OnCalendar"] == "*-*-* 03:30"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, None),
        (1, "failed"),
        (2, "bad configuration or input"),
        (3, "bad data"),
        (4, "not promoted"),
        (5, "another retrain is running"),
        (143, "failed"),
    ],
)
def test_cron_mails_every_failure(home: Path, code: int, words: str | None) -> None:
    _, cron = cron_line()
    assert "%" not in cron, "cron reads % as a newline"
    done = subprocess.run(
        ["/bin/sh", "-c", cron.replace(HOME, str(home))],
        env={"CODE": str(code)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    if words is None:
        assert done.stdout == ""
        return
    assert f"exit code {code}: {words}" in done.stdout
    assert "last words" in done.stdout


def test_cron_mails_if_the_folder_is_missing(tmp_path: Path) -> None:
    command = cron_line()[1].replace(HOME, str(tmp_path / "gone"))
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert "exit code" in done.stdout


def test_the_service_knows_the_exit_codes() -> None:
    service = read_unit(SERVICE)["Service"]
    assert service["SuccessExitStatus"].split() == [str(cli.NOT_PROMOTED)]
    assert service["RestartPreventExitStatus"].split() == [str(cli.BAD_INPUT), str(cli.BAD_DATA)]
    assert service["Restart"] == "on-failure"
    shell, option, script = shlex.split(service["ExecStopPost"])
    for code, said in {
        cli.BAD_DATA: "<2>bad data",
        cli.NOT_PROMOTED: "<5>not promoted",
        cli.DONE: "",
        cli.FAILED: "",
        "TERM": "",
    }.items():
        command = [shell, option, script.replace("$$", "$")]  # as systemd writes a $
        done = subprocess.run(command, env={"EXIT_STATUS": str(code)}, capture_output=True, text=True)
        assert done.stdout.startswith(said)
        assert bool(done.stdout) == bool(said)
        assert done.returncode == 0
        assert done.stderr == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(home: Path) -> None:
    for path in (SERVICE, TIMER):
        text = path.read_text(encoding="utf-8").replace(HOME, str(home))
        (home / path.name).write_text(text.replace("User=recsys", "User=root"), encoding="utf-8")
    command = ["systemd-analyze", "verify", *(str(home / path.name) for path in (SERVICE, TIMER))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "becomes"),
    [
        (cli.DONE, "success"),
        (cli.FAILED, "retry"),
        (cli.BAD_INPUT, "failed"),
        (cli.BAD_DATA, "failed"),
        (cli.NOT_PROMOTED, "skipped"),
        (cli.BUSY, "retry"),
        (cli.TERMINATED, "retry"),
    ],
)
def test_airflow_fails_skips_or_retries_by_exit_code(
    dag: dict[str, Any], home: Path, code: int, becomes: str
) -> None:
    done = subprocess.run(
        ["bash", "-c", dag["bash_command"]],
        cwd=home,
        env={"CODE": str(code), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode == 0:  # the operator then processes the last line
        last = done.stdout.splitlines()[-1]
        if becomes == "failed":
            with pytest.raises(FailedWithoutRetry):
                dag["output_processor"](last)
        else:
            assert becomes == "success"
            assert dag["output_processor"](last) == "last words"
    else:
        assert becomes == ("skipped" if done.returncode == dag["skip_on_exit_code"] else "retry")
    assert dag["retries"] > 0


def test_the_table_names_every_exit_code() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)]
    known = (cli.DONE, cli.FAILED, cli.BAD_INPUT, cli.BAD_DATA, cli.NOT_PROMOTED, cli.BUSY, cli.TERMINATED)
    assert codes == sorted(known)
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix != ".md"} - {"__pycache__"} == set(linked)
