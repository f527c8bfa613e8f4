"""The shape of the house: which way imports run, which tool lives where, and what serving loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("recsys", "pipelines", "serving")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SQL = sorted(path for path in (ROOT / "sql").rglob("*.sql"))

NUMPY_HALF = {
    f"recsys.{name}"
    for name in (
        *("ids", "interactions", "metrics", "index", "measured"),
        *("attributes", "bundle", "files", "fold_in", "canaries", "manifest", "releases", "seals"),
    )
}
# A wing imports from those before it, and from what all use; commands and the command line from any.
FOR_ALL = ("config", "tracking")
WINGS = ("data", "training", "evaluation", "release", "report", "tuning", "commands")
HOMES = {  # folders, or files, outside of which a tool is not imported
    "duckdb": ("pipelines/data/", "pipelines/evaluation/certificate.py"),
    "mlflow": ("pipelines/tracking/",),
    "annoy": ("recsys/index.py",),
    "optuna": ("pipelines/tuning/",),
    "jinja2": ("pipelines/report/page.py",),
    "matplotlib": ("pipelines/report/", "pipelines/tuning/plots.py"),
}
NEVER_IN_RECSYS = {"duckdb", "polars", "pandas", "mlflow", "typer", "pydantic", "pipelines", "serving"}
NEVER_IN_SERVING = {"torch", "duckdb", "polars", "pandas", "mlflow", "pipelines"}


def imports(path):
    """Every module a file imports, anywhere in it, by full name: `from recsys import ids` is recsys.ids."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(path):
    return {name.partition(".")[0] for name in imports(path)}


def label(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_imports_run_one_way_and_each_tool_has_one_home(path):
    package, used = label(path).partition("/")[0], packages(path)
    if package == "recsys":
        assert not used & NEVER_IN_RECSYS
    if package == "serving":
        assert not used & NEVER_IN_SERVING
    if package == "pipelines":  # `served` metrics and `recsys recommend` ask what serving would answer
        asked = {name for name in imports(path) if name.startswith("serving")}
        assert all(name.startswith("serving.recommender.") for name in asked)
    for tool, homes in HOMES.items():
        assert tool not in used or label(path).startswith(homes), f"{tool} lives in {homes}"


def wing(name):
    """The wing of a dotted name or a path: `data` of pipelines.data.folds; None of what is at the top."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if parts[0] == "pipelines" and len(parts) > 2 else None


@pytest.mark.parametrize("path", [path for path in MODULES if wing(label(path))], ids=label)
def test_wings_import_downwards(path):
    own = wing(label(path))
    used = {wing(name) for name in imports(path)} - {None, own}
    if own in FOR_ALL:
        assert used <= {"config"}
    else:
        assert used <= {*FOR_ALL, *WINGS[: WINGS.index(own)]}


def test_every_folder_is_a_wing_and_few_names_are_at_the_top():
    top = {path.name for path in (ROOT / "pipelines").iterdir()} - {"__pycache__"}
    folders = {name for name in top if (ROOT / "pipelines" / name).is_dir()}
    assert folders == {*FOR_ALL, *WINGS}
    assert top - folders == {"__init__.py", "__main__.py", "cli.py"}


@pytest.mark.parametrize("module", sorted(NUMPY_HALF))
def test_the_numpy_half_stands_alone(module):
    path = ROOT / f"{module.replace('.', '/')}.py"
    ours = {".".join(name.split(".")[:2]) for name in imports(path) if name.startswith("recsys")}
    assert ours <= NUMPY_HALF
    assert packages(path) <= sys.stdlib_module_names | {"numpy", "annoy", "recsys"}


@pytest.mark.parametrize("path", sorted((ROOT / "recsys").glob("[a-z]*.py")), ids=label)
def test_the_training_half_needs_torch_and_numpy_only(path):
    """So that it can be carried to a GPU host that has nothing else."""
    module = f"recsys.{path.stem}"
    if module not in NUMPY_HALF:
        ours = {".".join(name.split(".")[:2]) for name in imports(path) if name.startswith("recsys")}
        if path.stem != "fitting":  # which joins both halves: a fitted space writes a bundle
            assert not ours & {"recsys.index", "recsys.bundle"}, "they need annoy"
        bar = {"rich"} if path.stem == "progress" else set()  # drawn where it is installed
        assert packages(path) <= sys.stdlib_module_names | {"torch", "numpy", "recsys"} | bar


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import duckdb as d, os.path", {"duckdb", "os.path"}),
        ("def f():\n    from mlflow.tracking import x", {"mlflow.tracking.x"}),
        ("if x:\n    from recsys import ids, losses", {"recsys.ids", "recsys.losses"}),
    ],
)
def test_the_walk_sees_imports_wherever_they_hide(tmp_path, source, found):
    (tmp_path / "a.py").write_text(source)
    assert imports(tmp_path / "a.py") == found


def loaded_by(statement):
    """The top-level packages in sys.modules after one statement in a fresh interpreter."""
    script = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    return {name.partition(".")[0] for name in output.split()}


@pytest.mark.parametrize("path", sorted((ROOT / "serving").glob("[a-z]*.py")), ids=label)
def test_serving_loads_nothing_heavy(path):
    loaded = loaded_by(f"import serving.{path.stem}")
    assert "serving" in loaded
    assert not loaded & NEVER_IN_SERVING


def test_importing_recsys_imports_nothing_else():
    assert loaded_by("import recsys") == {"recsys"}


def test_sql_folder_holds_sql_only():
    others = [path for path in (ROOT / "sql").rglob("*") if path.is_file() and path.suffix != ".sql"]
    assert others == []


@pytest.mark.parametrize("path", SQL, ids=label)
def test_sql_says_what_it_selects(path):
    first_line = path.read_text(encoding="utf-8").partition("\n")[0]
    allowed = ("-- Grain: ", "-- Check: ") if path.parent.name == "checks" else ("-- Grain: ",)
    assert first_line.startswith(allowed)


# Sizes

MOST_LINES, MOST_ARGUMENTS, LONGEST_FILE = 50, 6, 350
REASONS = ("# Long: ", "# Many arguments: ")


def functions(path):
    """Each function of a file, and the comment lines directly above it."""
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1
            above = first
            while lines[above - 1].strip().startswith("#"):
                above -= 1
            yield node, [line.strip() for line in lines[above:first]]


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_functions_and_files_are_short_or_say_why(path):
    """Above each exception, or at the head of the file, stands `# Long:` or `# Many arguments:` and why."""
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(lines) <= LONGEST_FILE + 1 or any(line.startswith(REASONS[0]) for line in lines[:20])
    for node, above in functions(path):
        own = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        count = len([argument for argument in own if argument.arg not in ("self", "cls")])
        long = node.end_lineno - node.lineno + 1 > MOST_LINES
        for wrong, reason in ((long, REASONS[0]), (count > MOST_ARGUMENTS, REASONS[1])):
            assert not wrong or any(line.startswith(reason) for line in above), f"{node.name}: no '{reason}'"
