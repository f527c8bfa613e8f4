"""How exactly float32 matrices are multiplied, which torch knows for a whole process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def of_training(device: torch.device) -> Iterator[None]:
    """On a GPU factors are rounded to TF32, ten bits of fraction, and their products added in float32.

    A step is disturbed more by what it draws (benchmarks/LOG.md). Elsewhere nothing changes.
    """
    with _precision("high" if device.type == "cuda" else torch.get_float32_matmul_precision()):
        yield


@contextmanager
def exact() -> Iterator[None]:
    """All bits of float32, as a ranking needs them."""
    with _precision("highest"):
        yield


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
