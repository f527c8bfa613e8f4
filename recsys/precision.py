"""How exactly a GPU multiplies float32 matrices, which torch knows for a whole process."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def for_training() -> AbstractContextManager[None]:
    """Factors are rounded to TF32, ten bits of fraction, and their products added in float32.

    What rounding changes is less than what another seed does (benchmarks/LOG.md).
    """
    return _precision("tf32")


def full() -> AbstractContextManager[None]:
    """All bits of float32, as a ranking needs them."""
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
