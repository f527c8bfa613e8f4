"""The precision of float32 matrix products on a GPU, a process-wide setting of torch."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def for_training() -> AbstractContextManager[None]:
    """Use TF32 in the block: factors rounded to ten bits of fraction, products added in float32.

    Rounding changes the results less than another seed does (benchmarks/LOG.md).
    """
    return _precision("tf32")


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
