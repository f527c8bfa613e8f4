"""Problems of an install are reported before pip starts, and a scanned bundle is served without annoy."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from paths import ROOT
from server import TIMEOUT, Server, wait_until

from pipelines.commands import doctor

FIXTURES = ROOT / "tests" / "fixtures"
SCANNED, SEARCHED = FIXTURES / "bundle_v1_scan", FIXTURES / "bundle_v1"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}


def linked(into: Path, names: list[Path]) -> None:
    """Links to files and folders, with their own names."""
    into.mkdir(parents=True)
    for path in names:
        (into / path.name).symlink_to(path)


@pytest.fixture(scope="module")
def without_annoy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a venv with this project and all installed packages except annoy."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = folder / "lib" / VERSION / "site-packages"
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("annoy", "__editable__")) and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    (site / "recsys.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    return folder / "bin" / "python"


def run(*command: str | Path, cwd: Path = ROOT, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a process with this Python, without variables set by an outer make."""
    left_out = ("PYTHONPATH", "CXX", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    environment |= {"PYTHON": sys.executable} | changes
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


ASK = """
import json, sys
from importlib.util import find_spec
from pathlib import Path
from serving.recommender import Recommender
shop = Recommender.open(Path(sys.argv[1]))
users = shop.some_users(5)
best = shop.recommend(users[0])
answers = [best, shop.recommend_many(users), shop.similar_items(best[0].item_id)]
print(json.dumps([answers, find_spec("annoy") is not None, "annoy" in sys.modules]))
"""


def test_a_scanned_bundle_gives_the_same_answers_without_annoy(without_annoy: Path) -> None:
    here, there = run(sys.executable, "-c", ASK, SCANNED), run(without_annoy, "-c", ASK, SCANNED)
    assert here.returncode == there.returncode == 0, here.stderr + there.stderr
    expected, installed, loaded = json.loads(here.stdout)
    assert (installed, loaded) == (True, False)  # nor is it loaded where it could be
    assert json.loads(there.stdout) == [expected, False, False]


def test_a_bundle_with_an_index_reports_that_annoy_is_missing(without_annoy: Path) -> None:
    ran = run(without_annoy, "-c", ASK, SEARCHED)
    error = ran.stderr.splitlines()[-1]
    assert error.startswith(f"recsys.manifest.BundleError: {SEARCHED / 'index.ann'}: ")
    assert "searched by Annoy (search_k 150" in error
    assert (
        "the package annoy cannot be imported (No module named 'annoy'): pip install 'annoy>=1.17.3'" in error
    )
    assert "C++ compiler" in error


def test_an_index_cannot_be_built_without_annoy(without_annoy: Path) -> None:
    build = (
        "import numpy as np; from recsys.index import ItemIndex as I; I.build(np.ones((3, 2), 'f4'), 1, 0)"
    )
    ran = run(without_annoy, "-c", build)
    assert "ModuleNotFoundError: the package annoy cannot be imported" in ran.stderr
    assert "pip install 'annoy>=1.17.3'" in ran.stderr


def test_http_without_annoy_serves_scanned_bundles_only(without_annoy: Path, tmp_path: Path) -> None:
    bundles, log = tmp_path / "bundles", tmp_path / "log"
    shutil.copytree(SCANNED, bundles / "v1")
    shutil.copytree(SEARCHED, bundles / "v2")
    (bundles / "current").symlink_to("v1")
    command = [without_annoy, "-m", "pipelines", "serve", "--bundles", bundles, "--port", "0"]
    environment = {key: value for key, value in os.environ.items() if key[:6] not in ("RECSYS", "PYTHON")}
    environment |= {"RECSYS_POLL_SECONDS": "0.02"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        wait_until(lambda: process.poll() is not None or "running on http" in log.read_text())
        found = re.search(r"running on http://[\w.]+:(\d+)", log.read_text())
        assert found, log.read_text()
        server = Server(process, int(found[1]), log)
        wait_until(server.is_ready)
        user = server.ask("/v1/users?limit=1").json["users"][0]
        answer = server.ask(f"/v1/users/{user}/recommendations?k=3").json
        assert (answer["version"], answer["basis"], len(answer["items"])) == ("v1", "user", 3)
        (bundles / "next").symlink_to("v2")
        os.replace(bundles / "next", bundles / "current")
        wait_until(lambda: "refused: " in log.read_text())
        assert "v2/index.ann: this bundle is searched by Annoy" in log.read_text()
        assert "bundle v1 stays live" in log.read_text()
        assert server.ask(f"/v1/users/{user}/recommendations?k=3").json == answer
        process.terminate()
        assert process.wait(TIMEOUT) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_doctor_reports_serving_training_and_the_compiler(without_annoy: Path) -> None:
    ran = run(without_annoy, "-m", "pipelines", "doctor", CXX="/nonexistent/c++")
    assert ran.returncode == 1
    lines = dict(line.split(": ", 1) for line in ran.stdout.splitlines() if ": " in line)
    assert lines["serving over HTTP, without an Annoy index"] == "complete"
    searched, training = lines["bundles with an Annoy index"], lines["training"]
    assert searched == "MISSING annoy: pip install '.[index]' in the repository"
    assert re.fullmatch(r"MISSING annoy.*: pip install '\.\[train\]' in the repository", training)
    assert lines["compiler for annoy"].startswith("there is no C++ compiler '/nonexistent/c++'")
    ran = run(without_annoy, "-m", "pipelines", "doctor", CXX="g++")
    assert "compiler for annoy: g++ works" in ran.stdout


def test_doctor_lists_the_packages_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, names in doctor.NEEDED.values():
        listed = [*project["dependencies"], *project["optional-dependencies"][extra]]
        assert {re.split(r"[^\w-]", line)[0] for line in listed} == set(names), extra


# install.sh


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of this repository that an install reads, in a folder with a blank in its name."""
    folder = tmp_path / "our shop"
    for name in ("recsys", "pipelines", "serving", "sql", "constraints"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "install.sh", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> str:
    """A PATH with a shell, make and Python, but no compiler."""
    names = ("make", "sh", "dirname", "cat", "rm", "mkdir", "id", "env", "grep", "test")
    found = [shutil.which(name) for name in names]
    linked(tmp_path / "bin", [Path(path) for path in found if path])
    (tmp_path / "bin" / "python3").symlink_to(Path(sys.base_prefix, "bin", VERSION))
    return str(tmp_path / "bin")


def said(ran: subprocess.CompletedProcess[str], *words: str) -> None:
    """Output is one sentence: nothing from pip, no traceback."""
    assert ran.returncode == 2
    (line,) = [line for line in ran.stderr.splitlines() if not line.startswith("make: ")]
    assert line.startswith("install: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("target", ["install", "demo", "test"])
def test_a_missing_compiler_is_reported_before_pip(checkout: Path, tools: str, target: str) -> None:
    ran = run("make", target, cwd=checkout, PATH=tools, **NO_INDEX)
    said(ran, "annoy", "cannot be compiled", "no C++ compiler", "install g++ (Debian, Ubuntu)")
    assert not (checkout / ".venv").exists()


def test_a_wheel_of_annoy_replaces_the_compiler(checkout: Path, tmp_path: Path) -> None:
    """An empty wheel will do: pip accepts it, then starts, and finds nothing else."""
    described = "annoy-1.17.3.dist-info"
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "annoy-1.17.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("annoy.py", "")
        wheel.writestr(f"{described}/METADATA", "Metadata-Version: 2.1\nName: annoy\nVersion: 1.17.3\n")
        wheel.writestr(f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{described}/RECORD", "annoy.py,,\n")
    at_hand = NO_INDEX | {"PIP_FIND_LINKS": str(tmp_path / "wheels")}
    ran = run("make", cwd=checkout, CXX="/nonexistent/c++", **at_hand)
    assert "C++ compiler" not in ran.stderr
    assert "install: into .venv" in ran.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"CXX": "/nonexistent/c++"},
            ["no C++ compiler '/nonexistent/c++' (No such file or directory)", "CXX"],
        ),
        ({"CXX": "false"}, ["'false' cannot build a Python extension (exit code 1)", f"{VERSION}-dev"]),
        ({"PYTHON": "python3.99"}, ["PYTHON='python3.99' is not found", "3.11 or newer"]),
        ({"PYTHON": "false"}, ["PYTHON='false' does not run"]),
        ({"CONSTRAINTS": "constraints/gpu.txt"}, ["CONSTRAINTS='constraints/gpu.txt' is no file"]),
    ],
)
def test_compiler_problems_are_named(checkout: Path, changes: dict[str, str], words: list[str]) -> None:
    said(run("make", cwd=checkout, **NO_INDEX | changes), *words)
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_too_old_is_named(checkout: Path, tmp_path: Path) -> None:
    """A script answers like an old Python, so none is needed."""
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\ncase "$2" in *exit*) exit 1 ;; *) echo 3.9 ;; esac\n', encoding="utf-8")
    old.chmod(0o755)
    said(run("make", f"PYTHON={old}", cwd=checkout), f"PYTHON='{old}' is Python 3.9, needed is 3.11 or newer")


def home_without(folder: Path, *missing: str) -> str:
    """A PYTHONHOME for this Python without some modules and without headers."""
    standard = Path(sysconfig.get_path("stdlib"))
    linked(folder / "lib" / VERSION, [path for path in standard.iterdir() if path.name not in missing])
    return str(folder)


def test_headers_that_are_missing_are_named(tmp_path: Path) -> None:
    ran = run(sys.executable, "-m", "pipelines.commands.compiler", PYTHONHOME=home_without(tmp_path / "home"))
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"the headers of Python {VERSION.removeprefix('python')} are missing")
    assert f"install {VERSION}-dev (Debian, Ubuntu)" in ran.stderr


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("ensurepip", f"install {VERSION}-venv (Debian, Ubuntu)"),
        ("sqlite3", "was built without the module sqlite3"),
    ],
)
def test_a_python_that_lacks_a_module_is_named(
    checkout: Path, tmp_path: Path, module: str, words: str
) -> None:
    home = home_without(tmp_path / "home", module)
    python = Path(sys.base_prefix, "bin", VERSION)
    said(run("make", cwd=checkout, PYTHON=str(python), PYTHONHOME=home), words, str(python))


def test_an_interrupted_install_starts_again(checkout: Path) -> None:
    unreachable = NO_INDEX | {
        "PIP_NO_INDEX": "0",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
    }
    first = run("make", cwd=checkout, **unreachable)
    assert first.returncode == 2
    assert "install: pip reached no package index" in first.stderr
    left = checkout / ".venv" / "left"
    left.write_text("half a package", encoding="utf-8")
    second = run("make", cwd=checkout, **unreachable)
    assert "an earlier install did not finish: .venv is made anew" in second.stderr
    assert not left.exists()


def test_a_folder_that_was_moved_gets_a_new_venv_and_a_broken_one_is_named(checkout: Path) -> None:
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "installed").write_text(f"{checkout.resolve()}\n", encoding="utf-8")
    assert run("make", "--question", "install", cwd=checkout).returncode == 0
    moved = checkout.rename(checkout.with_name("moved"))
    ran = run("make", cwd=moved, **NO_INDEX)
    assert f".venv was made in '{checkout}': it is made anew here" in ran.stderr
    shutil.rmtree(moved / ".venv")
    (moved / ".venv").write_text("", encoding="utf-8")
    said(run("make", cwd=moved, **NO_INDEX), f"'{moved.resolve()}/.venv' is no folder")
    (moved / ".venv").unlink()
    (moved / ".venv" / "bin").mkdir(parents=True)
    said(run("make", cwd=moved, **NO_INDEX), "/.venv/bin/python' does not run", "rm -r .venv")
    (moved / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho 3.4\n", encoding="utf-8")
    (moved / ".venv" / "bin" / "python").chmod(0o755)
    said(run("make", cwd=moved, **NO_INDEX), "/.venv' is of Python 3.4", "rm -r .venv")
    assert (moved / ".venv" / "bin" / "python").exists()  # a venv that exists is never removed
