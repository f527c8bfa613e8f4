"""doctor: what is installed for serving and training, and which device training would use."""

import importlib.metadata
import platform
import sys

from pipelines.commands import compiler

NEEDED = {  # packages for each purpose, as in pyproject.toml, and their extra
    "serving over HTTP, without an Annoy index": (
        "serve",
        ("numpy", "fastapi", "httptools", "prometheus-client", "pydantic", "typer", "uvicorn", "uvloop"),
    ),
    "bundles with an Annoy index": ("index", ("numpy", "annoy")),
    "training": (
        "train",
        (
            *("numpy", "annoy", "duckdb", "matplotlib", "jinja2", "mlflow", "optuna", "polars", "pyarrow"),
            *("pydantic", "rich", "scikit-learn", "scipy", "torch", "typer"),
        ),
    ),
}


def report() -> tuple[list[str], bool]:
    """Lines of the report, and whether everything for serving and training is installed."""
    lines, missing = [f"python {platform.python_version()} ({sys.executable})"], set[str]()
    for package in dict.fromkeys(("recsys", *(name for _, names in NEEDED.values() for name in names))):
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.add(package)
            lines.append(f"{package} MISSING")
    for purpose, (extra, names) in NEEDED.items():
        lacks = [name for name in names if name in missing]
        how = (
            f"MISSING {', '.join(lacks)}: pip install '.[{extra}]' in the repository" if lacks else "complete"
        )
        lines.append(f"{purpose}: {how}")
    if "annoy" in missing:  # it has no wheels
        lines.append(f"compiler for annoy: {compiler.find_problem() or f'{compiler.command()[0]} works'}")
    if "torch" not in missing:
        lines.append(_device())
    return lines, not missing


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"device: cuda ({torch.cuda.get_device_name()}), because torch sees it"
    if torch.version.cuda is None:
        return f"device: cpu ({torch.get_num_threads()} threads), because this torch is a build without CUDA"
    return (
        f"device: cpu ({torch.get_num_threads()} threads), because torch (CUDA {torch.version.cuda}) sees no "
        "GPU: check the driver with nvidia-smi"
    )
