"""What a trained model must beat: popularity, and the truncated spectrum of the interaction matrix.

Axes: U users, I items, K dimensions.
"""

import torch
from torch import Tensor

from recsys.sampling import DeviceInteractions


def popularity(data: DeviceInteractions) -> Tensor:
    """(I,) float32: how many users have taken each item."""
    return torch.bincount(data.item, minlength=data.n_items).float()


def spectral(
    data: DeviceInteractions, dim: int, item_exponent: float = 0.5, iterations: int = 4, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Users (U, K) and items (I, K) whose inner product ranks; no training.

    N = D_u^-1/2 R D_i^-1/2, V its leading right singular vectors (randomised SVD, Halko et al. 2011);
    user = sum of d_i^-1/2 V_i over the history, item = d_i^e V_i. At e = 1/2 this is the ideal low-pass filter
    of GF-CF (Shen et al. 2021), eq. 7. Raises ValueError if dim is not in 1..min(U, I).
    """
    limit = min(data.n_users, data.n_items)
    if not 1 <= dim <= limit:
        raise ValueError(f"spectral dim = {dim}, allowed 1..{limit} (the smaller of users and items)")
    degree_user = torch.bincount(data.user, minlength=data.n_users).clamp_min(1).float()  # (U,)
    degree_item = popularity(data).clamp_min(1)  # (I,)
    user, item = data.user.long(), data.item.long()
    value = degree_user[user].rsqrt() * degree_item[item].rsqrt()  # (N,)
    shape = (data.n_users, data.n_items)
    matrix = torch.sparse_coo_tensor(torch.stack([user, item]), value, shape, is_coalesced=True).to_sparse_csr()
    transposed = torch.sparse_coo_tensor(torch.stack([item, user]), value, shape[::-1]).coalesce().to_sparse_csr()
    generator = torch.Generator(device=value.device).manual_seed(seed)
    width = min(dim + 16, limit)  # a few more than asked for, so that the last ones are accurate too
    basis = torch.randn(data.n_items, width, generator=generator, device=value.device)  # (I, W)
    for _ in range(iterations):
        basis = torch.linalg.qr(transposed @ (matrix @ basis)).Q
    image = matrix @ basis  # (U, W)
    right = (basis @ torch.linalg.svd(image, full_matrices=False).Vh.T)[:, :dim]  # (I, K)
    history = torch.sparse_coo_tensor(torch.stack([user, item]), torch.ones_like(value), shape, is_coalesced=True)
    users = history.to_sparse_csr() @ (degree_item.rsqrt()[:, None] * right)  # (U, K)
    return users, degree_item.pow(item_exponent)[:, None] * right
