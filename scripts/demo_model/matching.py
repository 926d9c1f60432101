"""Minimum-cost matching of objects to queries, many small problems at a time.

On a GPU every problem runs as one Triton program (shortest augmenting paths; Jonker and Volgenant
1987), so that a training step never waits for the CPU. On a CPU scipy solves them.
"""

import os

import torch

COLUMNS = 128        # queries of a problem, rounded up to a power of two


@torch.compiler.disable
def match(cost, counts):
    """cost [P, N, Q<=128] float32, counts [P] int32: rows in use -> [P, N] int64, each row's column.

    Rows past a problem's count get column 0; every used row gets a column of its own (N <= Q).
    """
    cost = torch.nan_to_num(cost.float(), nan=1e4, posinf=1e4, neginf=-1e4)
    if cost.is_cuda or _forced_triton():
        return _match_triton(cost, counts)
    from scipy.optimize import linear_sum_assignment
    found = torch.zeros(cost.shape[:2], dtype=torch.int64)
    for p, n in enumerate(counts.tolist()):
        if n:
            found[p, :n] = torch.as_tensor(linear_sum_assignment(cost[p, :n].numpy())[1])
    return found


def _forced_triton():                    # triton's interpreter, to try the kernel without a GPU
    return os.environ.get("TRITON_INTERPRET") == "1"


_kernel = None


def _match_triton(cost, counts):
    global _kernel
    if _kernel is None:
        _kernel = _build()
    problems, rows, queries = cost.shape
    found = torch.zeros(problems, rows, dtype=torch.int32, device=cost.device)
    cost = cost.contiguous()
    _kernel[(problems,)](cost, counts.to(torch.int32), found, rows, queries, BLOCK=COLUMNS, num_warps=1)
    return found.long()


def _build():
    import triton
    import triton.language as tl
    globals()["tl"] = tl                 # the kernel's body looks its names up here

    @triton.jit
    def match_kernel(cost, counts, found, rows, queries, BLOCK: tl.constexpr):
        problem = tl.program_id(0)
        count = tl.load(counts + problem)
        cost += problem.to(tl.int64) * rows * queries
        j = tl.arange(0, BLOCK)
        inside = j < queries
        owner = tl.full([BLOCK], -1, tl.int32)           # the row a column belongs to
        price_row = tl.zeros([BLOCK], tl.float32)        # that row's dual, kept by column
        price = tl.zeros([BLOCK], tl.float32)            # the column's dual
        for row in range(0, count):
            least = tl.full([BLOCK], 1e30, tl.float32)
            came_from = tl.full([BLOCK], -1, tl.int32)
            visited = j >= queries
            own_price = 0.0
            at = -1
            at_row = row
            at_price = 0.0
            while at_row >= 0:
                line = tl.load(cost + at_row * queries + j, mask=inside, other=1e30)
                reduced = line - at_price - price
                better = (reduced < least) & (visited == 0)
                least = tl.where(better, reduced, least)
                came_from = tl.where(better, at, came_from)
                open_least = tl.where(visited, 2e30, least)
                delta = tl.min(open_least, 0)
                at = tl.argmin(open_least, 0)
                path = visited & inside
                price_row = tl.where(path, price_row + delta, price_row)
                price = tl.where(path, price - delta, price)
                own_price += delta
                least = tl.where(visited, least, least - delta)
                visited = visited | (j == at)
                at_row = tl.sum(tl.where(j == at, owner, 0), 0)
                at_price = tl.sum(tl.where(j == at, price_row, 0.0), 0)
            # Walk back along the path and shift each column to the row before it.
            while at >= 0:
                before = tl.sum(tl.where(j == at, came_from, 0), 0)
                moved_row = row
                moved_price = own_price
                if before >= 0:
                    moved_row = tl.sum(tl.where(j == before, owner, 0), 0)
                    moved_price = tl.sum(tl.where(j == before, price_row, 0.0), 0)
                owner = tl.where(j == at, moved_row, owner)
                price_row = tl.where(j == at, moved_price, price_row)
                at = before
        tl.store(found + problem * rows + owner, j, mask=owner >= 0)

    return match_kernel
