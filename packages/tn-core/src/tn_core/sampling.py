r"""Exact sampling from a chain in a depth of log2 n, by its bonds.

The cores are non-negative, so the bonds are states too: W[s] is a sum over bond values of products of single entries
G_k[s_k][a_k, a_{k+1}]. Draw the outer bonds from the root of the product tree; then, level by level, every node with
end bonds (a, b) draws its middle bond c with weight Left[a, c] Right[c, b]; at the leaves draw s_k with weight
e_k(s) G_k[s][a_k, a_{k+1}]. All nodes of a level and all samples go at once; the tree is shared by the samples, and
only what lies above batched evidence carries the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tn_core.chain import Boundary, Cores, Evidence, Level, group, leaves, product_tree, take, weigh

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
    levels, _ = product_tree(leaves(chain, weights), weights.rows)
    samples = torch.Size(sample_shape).numel()
    # one axis for samples and batch together: entry s * rows + r is sample s of batch row r
    row = torch.arange(weights.rows, device=chain.like.device).repeat(samples)

    root = levels[-1].pick([0], weights.rows)
    root = root[0][row] if root.ndim == 4 else root[0].expand(len(row), -1, -1)
    if boundary == "ring":
        first = draw(root.diagonal(dim1=-2, dim2=-1))
        last = first
    else:
        pair = draw(root.flatten(1))
        first, last = pair // chain.width, pair % chain.width
    bonds = torch.stack([first, last])  # shape: (nodes + 1, entries)
    for level in reversed(levels[:-1]):
        nodes = len(level.where)
        inner = nodes // 2  # nodes of the level above that have two children; an odd one out has itself below
        left = _rows(level, range(0, 2 * inner, 2), row, bonds[:inner])
        right = _columns(level, range(1, 2 * inner, 2), row, bonds[1 : inner + 1])
        middle = draw(left * right)
        spread = bonds.new_empty(nodes + 1, len(row))
        spread[0 : 2 * inner + 1 : 2] = bonds[: inner + 1]
        spread[1 : 2 * inner : 2] = middle
        spread[2 * inner :] = bonds[inner:]
        bonds = spread

    states = bonds.new_empty(len(levels[0].where), len(row))
    for (ks, g), (some, e) in zip(chain.groups, weights.groups, strict=True):
        position = torch.tensor(ks, device=bonds.device)
        a, b = bonds[position], bonds[position + 1]
        index = torch.arange(len(ks), device=bonds.device).unsqueeze(1)
        w = g.permute(0, 2, 3, 1)[index, a, b]  # shape: (group, entries, N)
        if e is not None:
            w[list(some)] *= e[:, row]
        states[position] = draw(w)
    return states.T.reshape(*sample_shape, *weights.batch, len(states))


def _rows(level: Level, nodes: range, row: Tensor, bond: Tensor) -> Tensor:
    """Row ``bond`` of the matrix of each node, for each entry: (nodes, entries, m)."""
    return _gather(level, nodes, row, bond, transpose=False)


def _columns(level: Level, nodes: range, row: Tensor, bond: Tensor) -> Tensor:
    """Column ``bond`` of the matrix of each node, for each entry: (nodes, entries, m)."""
    return _gather(level, nodes, row, bond, transpose=True)


def _gather(level: Level, nodes: range, row: Tensor, bond: Tensor, transpose: bool) -> Tensor:
    """Looks shared and batched nodes up in their own stacks, so that nothing is copied to the batch."""
    kinds = [level.where[i] for i in nodes]
    like = level.shared if level.shared is not None else level.batched
    assert like is not None
    found = like.new_empty(len(kinds), len(row), like.shape[-1])
    for stack, is_batched in ((level.shared, False), (level.batched, True)):
        which = [j for j, (b, _) in enumerate(kinds) if b is is_batched]
        if not which or stack is None:
            continue
        chosen = take(stack, [kinds[j][1] for j in which])
        chosen = chosen.mT if transpose else chosen
        index = torch.arange(len(which), device=row.device).unsqueeze(1)
        some = bond if len(which) == len(kinds) else bond[which]
        values = chosen[index, row, some] if is_batched else chosen[index, some]
        if len(which) == len(kinds):
            return values
        found[which] = values
    return found


def draw(weights: Tensor) -> Tensor:
    """Draws an index along the last axis with probability proportional to non-negative weights.

    Inverse of the cumulative sum; a weight of zero is never drawn (unless all are zero).
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[..., -1:]
    level = torch.rand_like(total) * total
    # rounding may lift the level to the total, where no index would be left
    level = torch.minimum(level, torch.nextafter(total, torch.zeros_like(total)))
    return (cumulative <= level).sum(-1).clamp_max(weights.shape[-1] - 1)
