r"""The product of a chain's matrices by a pairwise tree: depth log2 n, and all intermediate products at hand.

What has no evidence below it is computed once, without the batch; and first, so that few products carry the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tn_core.cores import Grouped, index_on, take
from tn_core.evidence import Weights

__all__ = ["Index", "Level", "Product", "leaves", "product_tree", "select", "step_up", "touched"]

_AT_ONCE = 2**18  # numbers that stay in a processor's cache

Where = tuple[tuple[bool, int], ...]
"""For each node of a level whether it is batched, and its index in the stack of those that are as it is."""
Index = slice | tuple[int, ...]


@dataclass(frozen=True)
class Level:
    """One level of the product tree: node i is a product of neighbouring matrices.

    Attributes:
        shared: (nodes, m, m), those without evidence below them.
        batched: (nodes, rows, m, m), the others.
        where: which is which.
    """

    shared: Tensor | None
    batched: Tensor | None
    where: Where

    def matrix(self, node: int) -> Tensor:
        """The matrix of a node: (m, m) if it is shared, else (rows, m, m)."""
        is_batched, index = self.where[node]
        return self.stack(is_batched)[index]

    def stack(self, batched: bool) -> Tensor:
        """The stack of the batched nodes, or of the shared ones; there must be any."""
        found = self.batched if batched else self.shared
        assert found is not None
        return found


class Product(NamedTuple):
    """Some of the products of a step up the tree: those whose left nodes, and whose right ones, are (not) batched."""

    left_batched: bool
    right_batched: bool
    at_left: Index
    at_right: Index
    pairs: tuple[int, ...]
    """The nodes that they become in the level above."""


@dataclass(frozen=True)
class Step:
    """A step up the tree: which nodes are multiplied, and which move up as they are.

    Attributes:
        products: in the order in which they are stacked in the level above, before the nodes that move up.
        moved: where the nodes that move up are in the stacks of shared and of batched nodes.
        above: the level above.
        woven: where the bonds between the nodes below are, if those between the nodes above and then the middle bonds
            of the products are stacked.
    """

    products: tuple[Product, ...]
    moved: tuple[Index | None, Index | None]
    above: Where
    woven: tuple[int, ...]


@lru_cache(maxsize=1024)
def step_up(where: Where) -> Step:
    """Pairs of neighbours: of shared ones as long as there are any, so that few products carry the batch."""
    flags = [is_batched for is_batched, _ in where]
    starts = _starts(flags)
    # what a node above is made of: its node below, or a pair of them
    made_of: dict[tuple[bool, ...], list[int]] = {}
    for u, (i, end) in enumerate(zip(starts, [*starts[1:], len(where)], strict=True)):
        made_of.setdefault(tuple(flags[i:end]), []).append(u)
    products: list[Product] = []
    moved: list[Index | None] = [None, None]
    above: list[tuple[bool, int]] = [(False, 0)] * len(starts)
    woven = [[u] for u in range(len(starts))]
    stacked, middle = [0, 0], len(starts) + 1
    for kind in ((True, True), (True, False), (False, True), (False, False), (True,), (False,)):
        some = made_of.get(kind, [])
        if not some:
            continue
        at = [_as_index([where[starts[u] + side][1] for u in some]) for side in range(len(kind))]
        is_batched = any(kind)
        if len(kind) == 2:
            products.append(Product(kind[0], kind[1], at[0], at[1], tuple(some)))
        else:
            moved[is_batched] = at[0]
        for u in some:
            above[u] = (is_batched, stacked[is_batched])
            stacked[is_batched] += 1
            if len(kind) == 2:
                woven[u].append(middle)
                middle += 1
    order = (*(bond for bonds in woven for bond in bonds), len(starts))
    return Step(tuple(products), (moved[0], moved[1]), tuple(above), order)


def _starts(is_batched: Sequence[bool]) -> list[int]:
    """The first of each pair of neighbours that are multiplied, and each node that moves up alone."""
    starts, i, count = [], 0, len(is_batched)
    only_shared = any(not is_batched[i] and not is_batched[i + 1] for i in range(count - 1))
    while i < count:
        starts.append(i)
        pair = i + 1 < count and not (only_shared and (is_batched[i] or is_batched[i + 1]))
        i += 2 if pair else 1
    return starts


def _as_index(index: Sequence[int]) -> Index:
    """Indices as a slice, if they are evenly spaced and ascending."""
    step = index[1] - index[0] if len(index) > 1 else 1
    even = step > 0 and list(index) == list(range(index[0], index[-1] + 1, step))
    return slice(index[0], index[-1] + 1, step) if even else tuple(index)


def select(stack: Tensor, index: Index) -> Tensor:
    """The entries of a stack: a view where they are evenly spaced."""
    return stack[index] if isinstance(index, slice) else stack.index_select(0, index_on(index, stack.device))


def leaves(chain: Grouped, weights: Weights, spread: bool = False) -> Level:
    """The matrices A_k = sum_s e_k(s) G_k[s]: one batched product a group of variables of equal size.

    The chain may be one of logarithms: of what no evidence touches only the sums are made, a few cores at a time.

    Arguments:
        chain: the cores.
        weights: the evidence.
        spread: whether what has no evidence is repeated for every row, so that all nodes are batched.
    """
    shared, batched = [], []
    order: dict[bool, list[int]] = {True: [], False: []}
    for group, some, e in weights.parts:
        ks, g = chain.groups[group]
        cores = take(g, some).exp() if chain.logs else take(g, some)
        batched.append(torch.bmm(e, cores.flatten(2)).unflatten(2, g.shape[2:]))
        order[True] += [ks[i] for i in some]
    known = set(order[True])
    for ks, g in chain.groups:
        rest = [i for i, k in enumerate(ks) if k not in known]
        if rest:
            # summed before they are selected: cores are larger than sums
            shared.append(take(_sums_of_exponentials(g) if chain.logs else g.sum(1), rest))
            order[False] += [ks[i] for i in rest]
    if spread:
        batched += [stack.unsqueeze(1).expand(-1, weights.rows, -1, -1) for stack in shared]
        order = {True: order[True] + order[False], False: []}
        shared = []
    where = {k: (flag, j) for flag, ks in order.items() for j, k in enumerate(sorted(ks))}
    return Level(
        _arranged(shared, order[False]), _arranged(batched, order[True]), tuple(where[k] for k in range(len(where)))
    )


def _arranged(stacks: Sequence[Tensor], order: list[int]) -> Tensor | None:
    """The stacks one after another, then in ascending order."""
    joined = _joined(stacks)
    return None if joined is None else take(joined, sorted(range(len(order)), key=lambda j: order[j]))


def _sums_of_exponentials(logs: Tensor) -> Tensor:
    """The sums over values (sites, m, m) of the exponentials of (sites, N, m, m)."""
    at_once = max(1, _AT_ONCE // logs[0].numel())
    if logs.requires_grad and torch.is_grad_enabled():
        return logs.exp().sum(1)
    sums, buffer = logs.new_empty(len(logs), *logs.shape[2:]), torch.empty_like(logs[:at_once])
    for piece, out in zip(logs.split(at_once), sums.split(at_once), strict=True):
        torch.sum(torch.exp(piece, out=buffer[: len(piece)]), 1, out=out)
    return sums


def _joined(stacks: Sequence[Tensor]) -> Tensor | None:
    if not stacks:
        return None
    return stacks[0] if len(stacks) == 1 else torch.cat(list(stacks))


def touched(is_batched: Sequence[bool]) -> int:
    """How many products of the tree carry the batch."""
    count, level = 0, list(is_batched)
    while len(level) > 1:
        starts = _starts(level)
        ends = [*starts[1:], len(level)]
        level = [any(level[i:end]) for i, end in zip(starts, ends, strict=True)]
        count += sum(is_one and end - i == 2 for is_one, i, end in zip(level, starts, ends, strict=True))
    return count


def product_tree(level: Level) -> tuple[list[Level], Tensor]:
    """All levels of the pairwise product tree, the root last, and the log of what was divided out on the way.

    Every matrix is divided by its largest entry, a constant to autograd, so that neither a long chain nor small
    cores leave the range of the dtype.

    Returns:
        The levels, and (rows,), or () if nothing is batched.
    """
    peaks: list[Tensor] = []
    shared, batched = (None if m is None else _rescaled(m, peaks) for m in (level.shared, level.batched))
    level = Level(shared, batched, level.where)
    levels = [level]
    while len(level.where) > 1:
        step = step_up(level.where)
        stacks: tuple[list[Tensor], list[Tensor]] = ([], [])
        for left, right, at_left, at_right, _ in step.products:
            one, other = level.stack(left), level.stack(right)
            if left is right:
                products = select(one, at_left) @ select(other, at_right)
            else:
                products = _mixed(one, other, at_left, at_right)
            stacks[left or right].append(_rescaled(products, peaks))
        for flag, at in zip((False, True), step.moved, strict=True):
            if at is not None:
                stacks[flag].append(select(level.stack(flag), at))
        level = Level(_joined(stacks[False]), _joined(stacks[True]), step.above)
        levels.append(level)
    of_shared, of_batched = ([p for p in peaks if p.ndim == ndim] for ndim in (1, 2))
    log_scale = torch.cat(of_shared).log().sum() if of_shared else torch.cat(of_batched).log().sum(0)
    if of_shared and of_batched:
        log_scale = log_scale + torch.cat(of_batched).log().sum(0)
    return levels, log_scale


def _mixed(left: Tensor, right: Tensor, at_left: Index, at_right: Index) -> Tensor:
    """Products (nodes, rows, m, m) of nodes of which one is shared, (nodes, m, m), and one batched.

    A node at a time, as a matrix that is the same for the batch would be copied for each of its rows.
    """
    batched = left if left.ndim == 4 else right
    places = list(zip(_places(at_left), _places(at_right), strict=True))
    out = None if left.requires_grad or right.requires_grad else batched.new_empty(len(places), *batched.shape[1:])
    products = []
    for j, (i, k) in enumerate(places):
        one, other, slot = left[i], right[k], None if out is None else out[j]
        if one.ndim == 3:
            rows = None if slot is None else slot.flatten(0, 1)
            products.append(torch.mm(one.flatten(0, 1), other, out=rows).view_as(one))
        else:
            products.append(torch.bmm(one.expand(len(other), -1, -1), other, out=slot))
    return torch.stack(products) if out is None else out


def _places(index: Index) -> Sequence[int]:
    return range(index.start, index.stop, index.step) if isinstance(index, slice) else index


def _rescaled(matrices: Tensor, peaks: list[Tensor]) -> Tensor:
    """Every matrix divided by its largest entry; appends the divisors, (nodes,) or (nodes, rows)."""
    # where a matrix is zero it is divided by one
    peak = functional.threshold(matrices.detach().amax((-2, -1)), 0, 1)
    peaks.append(peak)
    divisor = peak[..., None, None]
    # in place where no derivative is recorded
    return matrices / divisor if matrices.requires_grad else matrices.div_(divisor)
