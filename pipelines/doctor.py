"""doctor: what is installed, which device training would use and why."""

import importlib.metadata
import platform
import sys

PACKAGES = (
    "recsys", "numpy", "annoy", "torch", "duckdb", "polars", "pyarrow", "mlflow", "pydantic", "typer", "rich",
    "scipy", "matplotlib",
)  # fmt: skip


def report() -> tuple[list[str], bool]:
    """Lines to read, and whether everything that the pipeline needs is there."""
    lines = [f"python {platform.python_version()} ({sys.executable})"]
    missing = []
    for package in PACKAGES:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
            lines.append(f"{package} MISSING: pip install 'recsys[train]'")
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
