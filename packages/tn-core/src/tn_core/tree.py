r"""The product of a chain's matrices by a pairwise tree: depth log2 n, and all intermediate products at hand.

What has no evidence below it is computed once, without the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from tn_core.cores import Grouped, index_on, take
from tn_core.evidence import Weights

__all__ = ["Level", "Where", "leaves", "product_tree", "touched"]

_AT_ONCE = 2**19  # numbers that stay in a processor's cache

Where = tuple[tuple[bool, int], ...]
"""For each node of a level whether it is batched, and its index among those that are as it is."""
_Index = slice | tuple[int, ...]


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
        stack = self.batched if is_batched else self.shared
        assert stack is not None
        return stack[index]


@dataclass(frozen=True)
class Pairs:
    """How the nodes of a level are multiplied in pairs, to give the level above.

    Attributes:
        products: for each combination that occurs of a left and a right node being batched, where they are in their
            stacks; the products are stacked in this order.
        odd: the last node, if it has no partner: whether it is batched, and its index.
        above: the level above.
    """

    products: tuple[tuple[bool, bool, _Index, _Index], ...]
    odd: tuple[bool, int] | None
    above: Where


@lru_cache(maxsize=1024)
def _pairs(where: Where) -> Pairs:
    """The pairs of a level."""
    count = len(where) // 2
    products, above, stacked = [], {}, {True: 0, False: 0}
    for left, right in ((True, True), (True, False), (False, True), (False, False)):
        some = [i for i in range(count) if (where[2 * i][0], where[2 * i + 1][0]) == (left, right)]
        if some:
            at_left, at_right = ([where[2 * i + side][1] for i in some] for side in (0, 1))
            products.append((left, right, _as_index(at_left), _as_index(at_right)))
            is_batched = left or right
            above.update({i: (is_batched, stacked[is_batched] + j) for j, i in enumerate(some)})
            stacked[is_batched] += len(some)
    odd = where[-1] if len(where) % 2 else None
    if odd is not None:
        above[count] = (odd[0], stacked[odd[0]])
    return Pairs(tuple(products), odd, tuple(above[i] for i in range(len(above))))


def _as_index(index: Sequence[int]) -> _Index:
    """Indices as a slice, if they are evenly spaced and ascending."""
    step = index[1] - index[0] if len(index) > 1 else 1
    even = step > 0 and list(index) == list(range(index[0], index[-1] + 1, step))
    return slice(index[0], index[-1] + 1, step) if even else tuple(index)


def _select(stack: Tensor, index: _Index) -> Tensor:
    """The entries of a stack: a view where they are evenly spaced."""
    return stack[index] if isinstance(index, slice) else stack.index_select(0, index_on(index, stack.device))


def leaves(chain: Grouped, weights: Weights) -> Level:
    """The matrices A_k = sum_s e_k(s) G_k[s]: one batched product a group of variables of equal size.

    The chain may be one of logarithms: of what no evidence touches only the sums are made, a few cores at a time.
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
        joint = [level[i] or level[i + 1] for i in range(0, len(level) - 1, 2)]
        count += sum(joint)
        level = joint + level[2 * len(joint) :]
    return count


def product_tree(level: Level) -> tuple[list[Level], Tensor]:
    """All levels of the pairwise product tree, the root last, and the log of what was divided out on the way.

    Every matrix is divided by its largest entry, a constant to autograd, so that neither a long chain nor small
    cores leave the range of the dtype. An odd node out moves up a level as it is.

    Returns:
        The levels, and (rows,), or () if nothing is batched.
    """
    peaks: list[Tensor] = []
    level = _rescale(level, peaks)
    levels = [level]
    while len(level.where) > 1:
        joint = _pairs(level.where)
        stacks: dict[bool, list[Tensor]] = {True: [], False: []}
        for left, right, at_left, at_right in joint.products:
            one, other = level.batched if left else level.shared, level.batched if right else level.shared
            assert one is not None
            assert other is not None
            if left is right:
                stacks[left].append(_select(one, at_left) @ _select(other, at_right))
            else:
                stacks[True].append(_mixed(one, other, at_left, at_right))
        if joint.odd is not None:
            stacks[joint.odd[0]].append(level.matrix(len(level.where) - 1).unsqueeze(0))
        level = _rescale(Level(_joined(stacks[False]), _joined(stacks[True]), joint.above), peaks)
        levels.append(level)
    shared, batched = ([p for p in peaks if p.ndim == ndim] for ndim in (1, 2))
    log_scale = torch.cat(shared).log().sum() if shared else torch.cat(batched).log().sum(0)
    if shared and batched:
        log_scale = log_scale + torch.cat(batched).log().sum(0)
    return levels, log_scale


def _mixed(left: Tensor, right: Tensor, at_left: _Index, at_right: _Index) -> Tensor:
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


def _places(index: _Index) -> Sequence[int]:
    return range(index.start, index.stop, index.step) if isinstance(index, slice) else index


def _rescale(level: Level, peaks: list[Tensor]) -> Level:
    """Divides every matrix by its largest entry; appends the divisors, (nodes,) and (nodes, rows)."""
    scaled = []
    for matrices in (level.shared, level.batched):
        if matrices is not None:
            # where a matrix is zero it is divided by one
            peak = functional.threshold(matrices.detach().amax((-2, -1)), 0, 1)
            peaks.append(peak)
            divisor = peak[..., None, None]
            # in place where no derivative is recorded; a node that only moved up is divided by one
            matrices = matrices / divisor if matrices.requires_grad else matrices.div_(divisor)
        scaled.append(matrices)
    return Level(scaled[0], scaled[1], level.where)
