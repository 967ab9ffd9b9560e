r"""Exact sampling from a chain in a depth of log2 n, by its bonds.

The cores are non-negative, so the bonds are states too: W[s] is a sum over bond values of products of single entries
G_k[s_k][a_k, a_{k+1}]. Draw the outer bonds from the root of the product tree; then, level by level, every node with
end bonds (a, b) draws its middle bond c with weight Left[a, c] Right[c, b]; at the leaves draw s_k with weight
e_k(s) G_k[s][a_k, a_{k+1}]. All nodes of a level and all samples go at once; the tree is shared by the samples, and
only what lies above batched evidence carries the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tn_core.cores import Boundary, Cores, Grouped, group, index_on, take, without_autocast
from tn_core.evidence import Evidence, Weights, weigh
from tn_core.plans import Plan, rows_at_once
from tn_core.tree import Index, Level, Product, leaves, product_tree, select, step_up

__all__ = ["sample"]


@torch.no_grad()
def sample(
    cores: Cores,
    log_evidence: Evidence = None,
    sample_shape: Sequence[int] = (),
    *,
    boundary: Boundary = "ring",
) -> Tensor:
    r"""Draws states with probability W[s] prod_k e_k(s_k) / Z(e), exactly.

    Arguments:
        cores: as in :func:`tn_core.log_partition`.
        log_evidence: as in :func:`tn_core.log_partition`.
        sample_shape: how many samples for each batch entry.
        boundary: "ring" or "train".

    Returns:
        States, long (\*sample_shape, \*batch, n).

    Raises:
        ValueError: if a shape or the boundary is not as in :func:`tn_core.log_partition`.
    """
    chain = group(cores, boundary)
    weights = weigh(chain, log_evidence)
    samples = math.prod(sample_shape)
    at_once = rows_at_once(Plan("tree"), chain, weights, boundary)
    pieces = [weights] if weights.rows <= at_once else weights.split(at_once)
    with without_autocast(chain.like):
        states = [_draw_states(chain, piece, samples, boundary) for piece in pieces]
    joined = states[0] if len(states) == 1 else torch.cat(states, 1)
    return joined.reshape(*sample_shape, *weights.batch, joined.shape[-1])


def _draw_states(chain: Grouped, weights: Weights, samples: int, boundary: Boundary) -> Tensor:
    """States (samples, rows, n)."""
    if weights.parts:
        tree = _Tree.of(chain, weights)
    else:
        if "tree" not in chain.cache:
            chain.cache["tree"] = _Tree.of(chain, weights)
        tree = chain.cache["tree"]
    # one axis for samples and batch together: entry s * rows + r is sample s of batch row r
    row = torch.arange(weights.rows, device=chain.like.device).repeat(samples)

    if boundary == "ring":
        outer = tree.root.diagonal(dim1=-2, dim2=-1)
        first = draw(outer[row] if outer.ndim == 2 else outer.repeat(len(row), 1))
        last = first
    else:
        flat = tree.root.flatten(-2)
        pair = draw(flat[row] if flat.ndim == 2 else flat.repeat(len(row), 1))
        first, last = pair // chain.width, pair % chain.width
    bonds = torch.stack([first, last])  # shape: (nodes + 1, entries)
    for level, table in reversed(tree.steps):
        step = step_up(level.where)
        middle = [draw(_middle_weights(level, table, product, row, bonds)) for product in step.products]
        bonds = torch.cat([bonds, *middle]).index_select(0, index_on(step.woven, bonds.device))

    found: list[Tensor] = []
    order: list[int] = []
    for number, (ks, g) in enumerate(chain.groups):
        entry = take(bonds, ks) * chain.width + take(bonds, [k + 1 for k in ks])
        # shape: (group, N, entries); the values are not the last axis, so that a draw goes over all entries at once
        w = g.flatten(2).gather(2, entry.unsqueeze(1).expand(-1, g.shape[1], -1))
        w = w.exp_() if chain.logs else w
        for there, some, e in weights.parts:
            if there == number:
                w[index_on(some, w.device)] *= e.mT[:, :, row]
        found.append(draw(w, 1))
        order += ks
    states = found[0] if len(found) == 1 else torch.cat(found)
    place = {k: j for j, k in enumerate(order)}
    return take(states, [place[k] for k in range(len(order))]).T.unflatten(0, (samples, weights.rows))


@dataclass(frozen=True)
class _Tree:
    """What bonds are drawn by.

    Attributes:
        root: the product of all matrices.
        steps: for each level below it, the lowest first, the level and, if any of its nodes without evidence are
            multiplied, the rows of the left ones and the columns of the right ones, (2 * nodes * m, m).
    """

    root: Tensor
    steps: tuple[tuple[Level, Tensor | None], ...]

    @classmethod
    def of(cls, chain: Grouped, weights: Weights) -> "_Tree":
        levels, _ = product_tree(leaves(chain, weights))
        return cls(levels[-1].matrix(0), tuple((level, cls._table(level)) for level in levels[:-1]))

    @staticmethod
    def _table(level: Level) -> Tensor | None:
        for left, right, at_left, at_right, _ in step_up(level.where).products:
            if not left and not right:
                shared = level.stack(batched=False)
                return torch.stack([select(shared, at_left), select(shared, at_right).mT]).view(-1, shared.shape[-1])
        return None


def _middle_weights(level: Level, table: Tensor | None, product: Product, row: Tensor, bonds: Tensor) -> Tensor:
    """The weights (pairs, entries, m) of the middle bonds of pairs, given the bonds (nodes above + 1, entries)."""
    pairs, device = len(product.pairs), bonds.device
    outer = bonds.index_select(0, index_on((*product.pairs, *(u + 1 for u in product.pairs)), device))
    if not product.left_batched and not product.right_batched:
        assert table is not None
        m = table.shape[-1]
        place = outer.add_(index_on(tuple(range(0, len(table), m)), device).unsqueeze(1))
        left, right = table.index_select(0, place.flatten()).view(2, pairs, -1, m)
        return left.mul_(right)
    first, second = outer.view(2, pairs, -1)
    left = _entries(level.stack(product.left_batched), product.at_left, row, first)
    right = _entries(level.stack(product.right_batched).mT, product.at_right, row, second)
    return left.mul_(right)


def _entries(matrices: Tensor, at: Index, row: Tensor, bond: Tensor) -> Tensor:
    """Rows (nodes, entries, m), given by bonds (nodes, entries), of matrices (..., m, m) or (..., rows, m, m)."""
    places = range(at.start, at.stop, at.step) if isinstance(at, slice) else at
    node = index_on(tuple(places), row.device).unsqueeze(1)
    return matrices[node, row, bond] if matrices.ndim == 4 else matrices[node, bond]


def draw(weights: Tensor, dim: int = -1) -> Tensor:
    """Draws an index along an axis with probability proportional to non-negative weights.

    Inverse of the cumulative sum, which takes the place of the weights; a weight of zero is never drawn (unless all
    are zero).
    """
    cumulative = weights.cumsum_(dim)
    total = cumulative.narrow(dim, weights.shape[dim] - 1, 1)
    level = torch.rand_like(total).mul_(total)
    level.masked_fill_(level >= total, 0)  # below the total also after rounding, which lifts tiny numbers up to it
    if dim == -1:
        found = torch.searchsorted(cumulative, level, right=True).squeeze(dim)
    else:
        found = cumulative.le_(level).sum(dim).long()  # as floating-point numbers: sums of booleans are slow
    return found.clamp_max_(weights.shape[dim] - 1)
