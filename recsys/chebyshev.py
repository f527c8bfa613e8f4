"""ChebyCF: a Chebyshev filter of the graph of items, a baseline without training (Kim et al. 2025, SIGIR).

Every user's history passes through the same filter of the whole spectrum, so a score is no inner product of
few coordinates: there are no vectors to export, and the baseline cannot be served.
Axes: U users, I items, B users of a chunk, K order, D dimensions of the ideal part, Q judged users.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recsys import baselines, graph, precision
from recsys.judge import Judge
from recsys.sampling import DeviceInteractions, histories

ITERATIONS = 8  # of the SVD; Gowalla's 512th value is 2.5 % below that of 16, with 4 7.5 %


class ChebyshevSettings(NamedTuple):
    """The filter's shape; the default is what the authors publish for Gowalla."""

    order: int = 8  # K, degree of the polynomial: as many products with the graph of items
    flatness: float = 1.5  # phi of the plateau: 1 is a straight line, more is flatter in the middle
    dim: int = 512  # eta, leading singular vectors of the ideal part
    ideal_weight: float = 0.2  # alpha of the ideal part; 0 leaves it out
    degree_power: float = 0.4  # beta: popular items count less in the history and more in the answer


GRID: Mapping[str, tuple[float, ...]] = {  # ascending
    "flatness": (0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
    "degree_power": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    "ideal_weight": (0.0, 0.1, 0.2, 0.3, 0.5, 0.8),
    "dim": (32, 64, 128, 256, 512),
}


def check(settings: ChebyshevSettings) -> None:
    """Raise ValueError on a setting out of its range; that of `dim` is checked by scorer()."""
    ranges = {
        "order": (settings.order >= 1, ">= 1"),
        "flatness": (0 < settings.flatness < math.inf, "> 0 and finite"),
        "ideal_weight": (0 <= settings.ideal_weight < math.inf, ">= 0 and finite"),
        "degree_power": (0 <= settings.degree_power <= 1, "0..1"),
    }
    for name, (allowed, words) in ranges.items():
        if not allowed:
            raise ValueError(f"chebyshev {name} = {getattr(settings, name)}, allowed {words}")


def plateau(x: Tensor, flatness: float) -> Tensor:
    """(...) in -1..1 -> (...): (1 - sign(x) |x|^flatness) / 2, from 1 at the lowest frequency to 0."""
    return (1 - x.sign() * x.abs().pow(flatness)) / 2


def nodes(order: int) -> Tensor:
    """(K + 1,) float64, descending: the roots of T_{K+1}, where the filter interpolates."""
    return torch.cos((torch.arange(order + 1, dtype=torch.float64) + 0.5) * (math.pi / (order + 1)))


def coefficients(order: int, flatness: float) -> Tensor:
    """(K + 1,) float64: sum_k c_k T_k(x) interpolates the plateau.

    At the k-th root of T_{K+1} it has the plateau's value at the k-th extremum of T_K, as in the authors'
    program, so that the outermost nodes get 0 and 1 themselves. As the order grows the two points meet.
    """
    k = torch.arange(order + 1, dtype=torch.float64)  # (K + 1,)
    value = plateau(torch.cos(k * (math.pi / order)), flatness)  # (K + 1,)
    basis = torch.cos(k[:, None] * nodes(order).acos())  # (K + 1, K + 1): T_k at each node
    c = 2 / (order + 1) * (basis @ value)  # (K + 1,)
    c[0] /= 2
    return c


def singular_vectors(data: DeviceInteractions, dim: int, seed: int = 0) -> Tensor:
    """(I, D): leading right singular vectors of D_u^-1/2 R D_i^-1/2, 0 for items without users.

    Raises ValueError if dim is not in 1..min(U, I).
    """
    _, right = baselines.spectral(data, dim, item_exponent=0.0, iterations=ITERATIONS, seed=seed)
    return right * (baselines.popularity(data) > 0)[:, None]  # the others are rounding noise


def scorer(
    data: DeviceInteractions, settings: ChebyshevSettings, vectors: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """A function of (B,) users that returns their scores (B, I), higher first, for Judge.rank_scores.

    N = D_u^-1/2 R D_i^-1/2, L = I - N^T N with spectrum 0..1, r_u the history:
    score = D_i^b (sum_k c_k T_k(2 L - I) + a V V^T) D_i^-b r_u, V = `vectors` (I, >= D) of
    singular_vectors(), computed if not given. A user without history has 0 everywhere.
    Takes K products with N^T N and a few (I, B) arrays. Raises ValueError on bad settings, and if dim is not
    in 1..min(U, I).
    """
    check(settings)
    factor = baselines.popularity(data).clamp_min(1).pow(settings.degree_power)  # (I,)
    adjacency = graph.adjacency(data)
    # 2 L - I = I - (sqrt 2 N)^T (sqrt 2 N)
    rows, columns = (bags._replace(value=bags.value * math.sqrt(2)) for bags in adjacency)
    to_users, to_items = graph.Matrix(rows, columns), graph.Matrix(columns, rows)
    weights: list[float] = coefficients(settings.order, settings.flatness).tolist()
    ideal = _ideal_part(data, settings, factor, vectors) if settings.ideal_weight > 0 else None

    def shifted(x: Tensor) -> Tensor:
        return x - graph.multiply(to_items, graph.multiply(to_users, x))

    @torch.no_grad()
    def scores(users: Tensor) -> Tensor:
        row, item = histories(data, users)  # (H,)
        older = factor.new_zeros(data.n_items, len(users))  # (I, B): T_0 of the signal
        older[item, row] = 1 / factor[item]
        newer = shifted(older)  # (I, B)
        score = (weights[0] * older).add_(newer, alpha=weights[1])  # (I, B)
        for weight in weights[2:]:
            older, newer = newer, shifted(newer).mul_(2).sub_(older)
            score.add_(newer, alpha=weight)
        if ideal is not None:
            with precision.full():
                score.addmm_(ideal[1], ideal[0][users].T)
        return score.mul_(factor[:, None]).T.contiguous()

    return scores


def _ideal_part(
    data: DeviceInteractions, settings: ChebyshevSettings, factor: Tensor, vectors: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Users (U, D) and items (I, D) whose inner product is a V V^T D_i^-b r_u."""
    if vectors is None:
        vectors = singular_vectors(data, settings.dim)
    if not 1 <= settings.dim <= vectors.shape[1]:
        raise ValueError(f"chebyshev dim = {settings.dim}, allowed 1..{vectors.shape[1]}")
    right = vectors[:, : settings.dim].contiguous()  # (I, D)
    weight = settings.ideal_weight / factor[data.item]  # (N,)
    history = graph.matrix(data.user, data.item, weight, data.n_users, data.n_items)
    return graph.multiply(history, right), right


class Choice(NamedTuple):
    """What choose() took, and the metric of all that it looked at."""

    settings: ChebyshevSettings
    tried: dict[ChebyshevSettings, float]


def choose(
    judge: Judge,
    metric: str = "ndcg@20",
    start: ChebyshevSettings | None = None,
    grid: Mapping[str, Sequence[float]] = GRID,
    rounds: int = 2,
) -> Choice:
    """The best settings by the metric of a validation judge, searched from `start` setting by setting.

    Each setting climbs its values in `grid`, ascending, from where it is to larger ones while that helps,
    else to smaller ones; then once more, as they depend on each other, up to `rounds` times or until none
    moves. `dim` is limited to the smaller of users and items. Raises ValueError on a name or value that is
    none, and on a metric that the judge does not compute.
    """
    data, start = judge.data, start or ChebyshevSettings()
    if unknown := set(grid) - set(start._fields):
        raise ValueError(f"grid has {sorted(unknown)}, allowed {list(start._fields)}")
    limit = min(data.n_users, data.n_items)
    best = start._replace(dim=min(start.dim, limit))
    lines = {name: sorted({min(v, limit) if name == "dim" else v for v in grid[name]}) for name in grid}
    vectors = singular_vectors(data, int(max(best.dim, *lines.get("dim", [0]))))
    tried: dict[ChebyshevSettings, float] = {}

    def score(settings: ChebyshevSettings) -> float:
        if settings not in tried:
            values = judge.values(judge.rank_scores(scorer(data, settings, vectors)))
            if metric not in values:
                raise ValueError(f"metric = {metric}, allowed {sorted(values)}")
            tried[settings] = float(values[metric].mean())
        return tried[settings]

    for _ in range(rounds):
        before = best
        for name, values in lines.items():
            now = getattr(best, name)
            larger, smaller = ([v for v in values if v > now], [v for v in values[::-1] if v < now])
            climbed = _climb(score, best, name, larger)
            best = climbed if climbed != best else _climb(score, best, name, smaller)
        if best == before:
            break
    score(best)
    return Choice(best, tried)


def _climb(
    score: Callable[[ChebyshevSettings], float], best: ChebyshevSettings, name: str, values: list[float]
) -> ChebyshevSettings:
    for value in values:
        candidate = ChebyshevSettings(**(best._asdict() | {name: value}))
        if score(candidate) <= score(best):
            break
        best = candidate
    return best
