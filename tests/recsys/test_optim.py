"""Adam over touched rows: torch's own Adams as oracles, rows at rest, projections, and the same bits."""

import pytest
import torch

from recsys.losses import unit_ball
from recsys.models import rows
from recsys.optim import RowAdam, TableAdam, _sorted, row_sums

N, D = 50, 6


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(seed, size=15, n=N):
    return torch.randint(n, (size,), generator=torch.Generator().manual_seed(seed))


def run(optimizer, table, steps, dense=False, n=N):
    """Steps down a loss of some rows, which repeat."""
    for step in range(steps):
        optimizer.zero_grad()
        chosen, goal = numbers(step, n=n), normal(100 + step, 15, *table.shape[1:])
        found = table[chosen] if dense else rows(table, chosen)
        (found - goal).square().sum().backward()
        optimizer.step()
    return table


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("shape", [(N, D), (N,)])
def test_it_is_torchs_adam_without_momentum(shape, dense):
    """Of a table too whose rows rest most of the time: three in four of a step, here."""
    ours, theirs = normal(0, *shape).requires_grad_(), normal(0, *shape).requires_grad_()
    run(RowAdam([ours], lr=0.05), ours, 40, dense=dense)
    run(torch.optim.Adam([theirs], lr=0.05, betas=(0.0, 0.999)), theirs, 40, dense=True)
    torch.testing.assert_close(ours, theirs)


def test_of_dense_gradients_table_adam_is_torchs_and_of_sparse_ones_row_adam():
    dense, sparse = ({"params": [normal(0, N, D).requires_grad_()]} for _ in range(2))
    vector = {"params": [normal(1, N).requires_grad_()], "project": lambda values: values.clamp_min(0.1)}
    theirs, rowwise = (normal(0, N, D).requires_grad_() for _ in range(2))
    of_rows = normal(1, N).requires_grad_()
    ours = TableAdam([dense, sparse, vector, {"params": []}], 0.05, betas=(0.8, 0.9))
    run(ours, dense["params"][0], 20, dense=True)
    dense["params"][0].grad = None
    run(ours, sparse["params"][0], 20)
    run(ours, vector["params"][0], 20)
    run(torch.optim.Adam([theirs], lr=0.05, betas=(0.8, 0.9)), theirs, 20, dense=True)
    run(RowAdam([rowwise], lr=0.05), rowwise, 20)
    run(RowAdam([{"params": [of_rows], "project": vector["project"]}], lr=0.05), of_rows, 20)
    torch.testing.assert_close(dense["params"][0], theirs)
    assert torch.equal(sparse["params"][0], rowwise)
    assert torch.equal(vector["params"][0], of_rows)
    with pytest.raises(ValueError, match=r"lr = 0.0, allowed > 0"):
        TableAdam([dense], 0.0)


def test_rows_without_a_gradient_rest():
    table = normal(0, N, D).requires_grad_()
    optimizer = RowAdam([table], lr=0.05)
    run(optimizer, table, 3)
    before, kept = (
        table.detach().clone(),
        {k: v.clone() for k, v in optimizer.state[table].items() if k != "step"},
    )
    optimizer.zero_grad()
    rows(table, torch.tensor([7, 7, 3])).sum().backward()
    optimizer.step()
    rest = torch.ones(N, dtype=torch.bool).index_fill_(0, torch.tensor([3, 7]), False)
    assert torch.equal(table[rest], before[rest])
    assert (table[~rest] != before[~rest]).all()
    for name, value in kept.items():
        assert torch.equal(optimizer.state[table][name][rest], value[rest])
        assert (optimizer.state[table][name][~rest] != value[~rest]).all()


def test_only_rows_that_move_are_projected():
    table = (5 * normal(0, N, D)).requires_grad_()
    height = (normal(1, N) - 3).requires_grad_()
    groups = [
        {"params": [table], "project": unit_ball},
        {"params": [height], "project": lambda values: values.clamp_min(0)},
    ]
    optimizer, before = RowAdam(groups, lr=0.05), (table.detach().clone(), height.detach().clone())
    moved = torch.tensor([4, 9, 9])
    (rows(table, moved).sum() + rows(height, moved).sum()).backward()
    optimizer.step()
    rest = torch.ones(N, dtype=torch.bool).index_fill_(0, moved, False)
    for part, was in zip((table, height), before, strict=True):
        assert torch.equal(part[rest], was[rest])
    assert table[~rest].norm(dim=1).max() <= 1 + 1e-6
    assert (height[~rest] == 0).all()
    assert (before[0].norm(dim=1) > 1).all()


def test_row_sums_equal_the_dense_gradient():
    for shape in ((N, D), (N,)):
        index, values = numbers(3, 40), normal(4, 40, *shape[1:])
        sparse = torch.sparse_coo_tensor(index[None], values, shape, check_invariants=True)
        number, sums = row_sums(sparse)
        assert number.tolist() == sorted(set(index.tolist()))
        torch.testing.assert_close(sums, sparse.to_dense()[number])


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("most", [1, 5, 2**31 - 1])
def test_sums_of_rows_are_in_the_order_of_their_entries(size, most):
    """The largest number that a table's rows can have, too: numbers and places are sorted as one."""
    number = torch.randint(most, (size,), generator=torch.Generator().manual_seed(0))
    number[-1] = most - 1
    ascending, order = number.sort(stable=True)
    found = _sorted(number)
    assert torch.equal(found[0], ascending)
    assert torch.equal(found[1], order)


def test_a_table_that_nothing_asked_for_stays():
    table = normal(0, N, D).requires_grad_()
    optimizer = RowAdam([table, torch.ones(3, requires_grad=True)], lr=0.05)
    rows(table, torch.empty(0, dtype=torch.int64)).sum().backward()
    optimizer.step()
    assert torch.equal(table, normal(0, N, D))


def test_same_gradients_same_bits_on_many_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        tables = []
        for _ in range(3):
            table = normal(0, 20, 64).requires_grad_()
            optimizer = RowAdam([table], lr=0.05)
            for step in range(3):
                optimizer.zero_grad()
                (rows(table, numbers(step, 50_000, 20)) * normal(step, 50_000, 64)).sum().backward()
                optimizer.step()
            tables.append(table)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
def test_a_step_size_out_of_range_is_refused(lr):
    with pytest.raises(ValueError, match=rf"lr = {lr}, allowed > 0"):
        RowAdam([torch.ones(1, requires_grad=True)], lr=lr)
