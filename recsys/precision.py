"""Precision while training: of float32 matrix products on a GPU, of sums over a graph on a CPU."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def for_training() -> AbstractContextManager[None]:
    """Use TF32 in the block: factors rounded to ten bits of fraction, products added in float32.

    Rounding changes the results less than another seed does (benchmarks/LOG.md).
    """
    return _precision("tf32")


def of_graph(device: torch.device) -> torch.dtype:
    """bfloat16 on a CPU that computes with it, which moves half the bytes; else float32.

    It has seven bits of fraction. A sum over neighbours and a product are added up in float32, then rounded.
    Measured beside float32 in benchmarks/LOG.md, "half the bytes".
    """
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.12 does not tell
    has_it = known.get("avx512_bf16", False) or known.get("amx_bf16", False)
    return torch.bfloat16 if device.type == "cpu" and has_it else torch.float32


def full() -> AbstractContextManager[None]:
    """Use all bits of float32 in the block, for rankings."""
    return _precision("ieee")


@contextmanager
def _precision(name: str) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = name
    try:
        yield
    finally:
        matmul.fp32_precision = before
