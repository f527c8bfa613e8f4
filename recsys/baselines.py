"""Baselines without training: popularity, its trend, and the truncated spectrum of the interaction matrix.

Axes: U users, I items, N interactions, K dimensions, W dimensions while working (K and a few more).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from recsys import precision
from recsys.sampling import DeviceInteractions

OVERSAMPLED = 16  # dimensions beyond those asked for, so that the last of these are accurate too
ROUNDING = 1e-7  # of float32: smaller eigenvalues of a product of rows are noise


def popularity(data: DeviceInteractions) -> Tensor:
    """(I,) float32: number of users of each item."""
    return torch.bincount(data.item, minlength=data.n_items).float()


def trend(data: DeviceInteractions, half_life: float) -> Tensor:
    """(I,) float32: log of an item's recent popularity over its popularity; 0 is the average, > 0 rising.

    Recent popularity counts a user 2^(-age / half_life) times, age and half_life in seconds, back from the
    last interaction. Both counts get one more user of average trend, so that rare items stay near 0. All 0 if
    no interaction is later than another. Raises ValueError if half_life <= 0.
    """
    if not half_life > 0:
        raise ValueError(f"half_life = {half_life} seconds, allowed > 0")
    age = (data.time.max() - data.time).float()  # (N,)
    weight = torch.exp2(-age / half_life)
    recent = torch.bincount(data.item, weight, minlength=data.n_items)
    average = weight.mean()
    return ((recent + average) / (average * (popularity(data) + 1))).log().float()


def spectral(
    data: DeviceInteractions, dim: int, item_exponent: float = 0.5, iterations: int = 4, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Users (U, K) and items (I, K) whose inner product ranks; no training.

    N = D_u^-1/2 R D_i^-1/2, V its leading right singular vectors (randomised SVD, Halko et al. 2011);
    user = sum of d_i^-1/2 V_i over the history, item = d_i^e V_i. At e = 1/2 this is the ideal low-pass
    filter of GF-CF (Shen et al. 2021), eq. 7. Raises ValueError if dim is not in 1..min(U, I).
    """
    limit = min(data.n_users, data.n_items)
    if not 1 <= dim <= limit:
        raise ValueError(f"spectral dim = {dim}, allowed 1..{limit} (the smaller of users and items)")
    user, item, by_user = data.user.long(), data.item.long(), data.offsets
    degree_item = popularity(data).clamp_min(1)  # (I,)
    value = by_user.diff()[user].rsqrt() * degree_item[item].rsqrt()  # (N,)
    order = data.item.argsort(stable=True)  # the interactions item by item, for the transpose
    by_item = torch.searchsorted(item[order], torch.arange(data.n_items + 1, device=item.device))  # (I + 1,)
    user, value_by_item = user[order], value[order]
    right = leading_directions(
        lambda basis: _sums_of_rows(basis, item, by_user, value),
        lambda image: _sums_of_rows(image, user, by_item, value_by_item),
        (data.n_users, data.n_items),
        dim,
        torch.Generator(device=value.device).manual_seed(seed),
        iterations,
    )  # (I, K)
    users = _sums_of_rows(degree_item.rsqrt()[:, None] * right, item, by_user, torch.ones_like(value))
    return users, degree_item.pow(item_exponent)[:, None] * right


def leading_directions(
    forward: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], Tensor],
    shape: tuple[int, int],
    dim: int,
    generator: torch.Generator,
    iterations: int = 4,
) -> Tensor:
    """(N, K): leading right singular vectors of a matrix of shape (M, N), the largest singular value first.

    `forward` maps (N, W) to the matrix times it (M, W), `backward` (M, W) to the transpose times it (N, W).
    Subspace iteration from random vectors (randomised SVD, Halko et al. 2011) of a few more than `dim`
    dimensions; `dim` is the smaller of M and N at most.
    """
    width = min(dim + OVERSAMPLED, *shape)
    basis = torch.randn(shape[1], width, generator=generator, device=generator.device)  # (N, W)
    for _ in range(iterations):
        basis = _orthonormal(backward(forward(basis)))
    _, turn = _gram(forward(basis))
    return (basis @ turn.flip(1))[:, :dim]


def _gram(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(M, W) -> (W,), (W, W): squared singular values, ascending, and right singular vectors as columns.

    By the small matrix of inner products: a fraction of the time of an SVD of a tall one.
    """
    with precision.full():
        values, vectors = torch.linalg.eigh((rows.T @ rows).double())
    return values, vectors.to(rows.dtype)


def _orthonormal(rows: Tensor) -> Tensor:
    """(M, W) -> (M, W): orthonormal columns, of the same span or of one that holds it."""
    for _ in range(2):  # the second time mends the rounding of the first
        values, vectors = _gram(rows)
        if values[0] <= ROUNDING * values[-1]:  # fewer dimensions than columns, which QR completes
            # Q is column-major, where gathering rows is ten times slower
            completed: Tensor = torch.linalg.qr(rows).Q
            return completed.contiguous()
        rows = rows @ (vectors * values.rsqrt().to(rows.dtype))
    return rows


def _sums_of_rows(rows: Tensor, index: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """(M, W), (N,), (B + 1,), (N,) -> (B, W): sums of weight * rows[index], each from an offset to the next.

    A sparse matrix times `rows` without torch's sparse tensors: faster, and without their beta warnings.
    """
    return embedding_bag(
        index, rows, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True
    )
