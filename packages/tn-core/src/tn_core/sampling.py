r"""Exact sampling from a chain in a depth of log2 n, by its bonds.

The cores are non-negative, so the bonds are states too: W[s] is a sum over bond values of products of single entries
G_k[s_k][a_k, a_{k+1}]. Draw the outer bonds from the root of the product tree; then, level by level, every node with
end bonds (a, b) draws its middle bond c with weight Left[a, c] Right[c, b]; at the leaves draw s_k with weight
e_k(s) G_k[s][a_k, a_{k+1}]. All nodes of a level and all samples go at once; the tree is shared by the samples, and
only what lies above batched evidence carries the batch.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tn_core.cores import Boundary, Cores, Grouped, group, index_on, take, without_autocast
from tn_core.evidence import Evidence, Weights, weigh
from tn_core.plans import Plan, rows_at_once
from tn_core.tree import Level, Where, leaves, product_tree

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
        levels, _ = product_tree(leaves(chain, weights))
    else:
        if "levels" not in chain.cache:
            chain.cache["levels"], _ = product_tree(leaves(chain, weights))
        levels = chain.cache["levels"]
    # one axis for samples and batch together: entry s * rows + r is sample s of batch row r
    row = torch.arange(weights.rows, device=chain.like.device).repeat(samples)

    root = levels[-1].matrix(0)
    if boundary == "ring":
        outer = root.diagonal(dim1=-2, dim2=-1)
        first = draw(outer[row] if outer.ndim == 2 else outer.repeat(len(row), 1))
        last = first
    else:
        flat = root.flatten(-2)
        pair = draw(flat[row] if flat.ndim == 2 else flat.repeat(len(row), 1))
        first, last = pair // chain.width, pair % chain.width
    bonds = torch.stack([first, last])  # shape: (nodes + 1, entries)
    for level in reversed(levels[:-1]):
        # an odd node out has itself below, and no middle bond
        inner = len(level.where) // 2
        middle = draw(_middle_weights(level, row, bonds[: inner + 1]))
        woven = torch.stack([bonds[:inner], middle], 1).flatten(0, 1)
        bonds = torch.cat([woven, bonds[inner:]])

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


def _middle_weights(level: Level, row: Tensor, bonds: Tensor) -> Tensor:
    """The weights of the middle bond of each pair given its outer ones (pairs + 1, entries): (pairs, entries, m)."""
    if level.batched is not None or level.shared is None:
        return _entries(level, 0, row, bonds[:-1]).mul_(_entries(level, 1, row, bonds[1:]))
    # rows of the left matrices and columns of the right ones, looked up in one go
    count, m = len(bonds) - 1, level.shared.shape[-1]
    tables = torch.stack([level.shared[0 : 2 * count : 2], level.shared[1 : 2 * count : 2].mT]).view(-1, m)
    base = torch.arange(0, 2 * count * m, m, device=row.device).view(2, count, 1)
    place = base + bonds.unfold(0, count, 1).movedim(2, 1)  # shape: (2, pairs, entries)
    left, right = tables.index_select(0, place.flatten()).view(*place.shape, m)
    return left.mul_(right)


def _entries(level: Level, side: int, row: Tensor, bond: Tensor) -> Tensor:
    """Of the left (right) node of each pair the row (column) ``bond``, for each entry: (pairs, entries, m).

    Shared and batched nodes are looked up in their own stacks, so that nothing is copied to the batch.
    """
    parts: list[Tensor] = []
    order: list[int] = []
    for stack, (nodes, places) in (
        (level.shared, _side(level.where, side, False)),
        (level.batched, _side(level.where, side, True)),
    ):
        if stack is None or not nodes:
            continue
        some = bond if len(nodes) == len(bond) else take(bond, nodes)
        index = index_on(places, row.device).unsqueeze(1)  # shape: (nodes, 1)
        looked_up = stack.mT if side else stack
        if stack.ndim == 4:
            parts.append(looked_up[index, row, some])
        else:
            m = stack.shape[-1]
            place = torch.add(some, index, alpha=m).view(-1)
            parts.append(looked_up.flatten(0, 1).index_select(0, place).view(*some.shape, m))
        order += nodes
    if len(parts) == 1:
        return parts[0]
    place_of = {node: j for j, node in enumerate(order)}
    return take(torch.cat(parts), [place_of[j] for j in range(len(order))])


@lru_cache(maxsize=4096)
def _side(where: Where, side: int, is_batched: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The pairs whose left (right) node is batched (or not), and where in its stack it is."""
    found = [(j, where[2 * j + side][1]) for j in range(len(where) // 2) if where[2 * j + side][0] is is_batched]
    return tuple(j for j, _ in found), tuple(i for _, i in found)


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
        found = (cumulative <= level).sum(dim)
    return found.clamp_max_(weights.shape[dim] - 1)
