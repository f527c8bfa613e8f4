"""The benchmarks' scripts: that each can be loaded, so that no name they import is gone."""

import importlib.util
from pathlib import Path

# Used by the scripts, not here: .ci/tests_without reads off these lines what this file needs.
import duckdb  # noqa: F401
import polars  # noqa: F401
import pytest
import torch  # noqa: F401
from paths import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_loads_and_has_a_main(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.main)
    assert module.__doc__
