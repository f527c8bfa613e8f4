"""Seconds of the losses of whole histories, forward and backward, beside the softmax over whole histories.

python benchmarks/history_losses.py [--threads 2] [--repeats 9] [--own 55000] [--device cpu]

2,048 users x 4,096 candidates x 64 dimensions, unit vectors, histories of very different lengths. `softmax`
starts at the vectors and makes its distances itself. The others start at distances: `distances` is what it
costs to make them and to bring their gradient back to the vectors, which comes on top. `matmul and exp` is
the least that a pass over all pairs costs. `sorted` is the value of rank_hinge, without gradients, from rows
that are sorted. sl_at_k includes its top_k_border. All take turns in random order.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from random import Random
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recsys import history_losses, psl, softmax

B, C, D = 2_048, 4_096, 64
N_ITEMS = 40_981
MARGIN, TEMPERATURE, K = 0.3, 0.12, 20
COSINE = 0.3  # of a user and their own items, about

Step = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--own", type=int, default=55_000, help="items in the users' histories")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    steps = all_steps(args.own, torch.device(args.device))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = Random(0)
    for repeat in range(args.repeats + 1):
        for name in order.sample(list(steps), len(steps)):
            started = time.perf_counter()
            steps[name]().item()
            if repeat > 0:  # the first warms up
                seconds[name].append(time.perf_counter() - started)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, {args.own:,} own items")
    print("step               median s   least s  x softmax")
    for name, taken in seconds.items():
        ratio = median(taken) / median(seconds["softmax"])
        print(f"{name:18} {median(taken):8.4f} {min(taken):9.4f} {ratio:11.2f}")


def all_steps(own: int, device: torch.device) -> dict[str, Step]:
    generator = torch.Generator().manual_seed(0)
    users = normalize(torch.randn(B, D, generator=generator))  # (B, D)
    items = normalize(torch.randn(C, D, generator=generator))  # (C, D)
    lengths = torch.randn(B, generator=generator).exp()  # (B,): a few users have most
    row = torch.multinomial(lengths, own, replacement=True, generator=generator).sort().values  # (H,)
    d_own = 1 - COSINE + torch.randn(own, generator=generator) / D**0.5  # (H,)
    users, items, row, d_own = (values.to(device) for values in (users, items, row, d_own))
    d = 1 - users @ items.T  # (B, C)
    log_q = torch.full((C,), C / N_ITEMS, device=device).log()  # (C,): uniform
    steps: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "rank_hinge": lambda own, far: history_losses.rank_hinge(own, row, far, MARGIN, N_ITEMS),
        "psl": lambda own, far: psl.psl(own, row, far, log_q, TEMPERATURE, "relu"),
        "sl_at_k": lambda own, far: sl_at_k(own, row, far, log_q),
    }
    return {
        "matmul and exp": lambda: (users @ items.T).exp_().sum(),
        "distances": partial(distances, users, items),
        "softmax": partial(fused_softmax, users, items, d_own, row, log_q),
        **{name: partial(backward, loss, d_own, d) for name, loss in steps.items()},
        "top_k_border": lambda: history_losses.top_k_border(d_own, row, d, K, log_q).sum(),
        "sorted": partial(sorted_rank_hinge, d_own, row, d),
    }


def fused_softmax(users: Tensor, items: Tensor, d_own: Tensor, row: Tensor, log_q: Tensor) -> Tensor:
    users, items = (rows.detach().requires_grad_() for rows in (users, items))
    count = torch.bincount(row, minlength=len(users))  # (B,)
    among = softmax.Candidates(items, -log_q, row.new_empty(0))
    loss = softmax.softmax(users, -d_own / TEMPERATURE, count, among, TEMPERATURE)
    loss.backward()
    return loss.detach()


def distances(users: Tensor, items: Tensor) -> Tensor:
    users, items = (rows.detach().requires_grad_() for rows in (users, items))
    d = 1 - users @ items.T  # (B, C)
    d.backward(d.detach())
    return d.detach()[0, 0]


def backward(loss: Callable[[Tensor, Tensor], Tensor], d_own: Tensor, d: Tensor) -> Tensor:
    own, far = d_own.detach().requires_grad_(), d.detach().requires_grad_()
    total = loss(own, far).sum()
    total.backward()
    return total.detach()


def sl_at_k(d_own: Tensor, row: Tensor, d: Tensor, log_q: Tensor) -> Tensor:
    border = history_losses.top_k_border(d_own, row, d, K, log_q)
    return history_losses.sl_at_k(
        d_own, row, d, log_q, border, temperature=TEMPERATURE, weight_temperature=TEMPERATURE
    )


def sorted_rank_hinge(d_own: Tensor, row: Tensor, d: Tensor) -> Tensor:
    ascending = d.sort(1).values  # (B, C)
    nearest = ascending.cumsum(1)  # (B, C)
    border = d_own + MARGIN  # (H,)
    count = torch.bincount(row, minlength=len(d))  # (B,)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]  # (H,)
    borders = d.new_zeros(len(d), int(count.max()))  # (B, K)
    borders[row, place] = border
    n = torch.searchsorted(ascending, borders)[row, place]  # (H,)
    mean = border - nearest[row, (n - 1).clamp_min(0)] / n.clamp_min(1)  # (H,)
    return (torch.log1p(N_ITEMS * n / d.shape[1]) * mean * (n > 0)).sum()


if __name__ == "__main__":
    main()
