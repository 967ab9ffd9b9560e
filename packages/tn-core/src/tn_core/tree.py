r"""The product of a chain's matrices by a pairwise tree: depth log2 n, and all intermediate products at hand.

What has no evidence below it is computed once, without the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tn_core.cores import Grouped, take
from tn_core.evidence import Weights

__all__ = ["Level", "leaves", "product_tree", "touched"]


@dataclass(frozen=True)
class Level:
    """One level of the product tree: node i is a product of neighbouring matrices.

    Attributes:
        shared: (nodes, m, m), those without evidence below them.
        batched: (nodes, rows, m, m), the others.
        where: for each node, whether it is batched, and its index there.
    """

    shared: Tensor | None
    batched: Tensor | None
    where: tuple[tuple[bool, int], ...]

    def pick(self, nodes: Sequence[int], rows: int) -> Tensor:
        """The matrices of some nodes: (nodes, m, m) if all are shared, else (nodes, rows, m, m)."""
        batched = [i for i in nodes if self.where[i][0]]
        if not batched:
            assert self.shared is not None
            return take(self.shared, [self.where[i][1] for i in nodes])
        assert self.batched is not None
        some = take(self.batched, [self.where[i][1] for i in batched])
        if len(batched) == len(nodes):
            return some
        assert self.shared is not None
        others = [i for i in nodes if not self.where[i][0]]
        rest = take(self.shared, [self.where[i][1] for i in others])
        both = torch.cat([some, rest.unsqueeze(1).expand(-1, rows, -1, -1)])
        place = {node: j for j, node in enumerate(batched + others)}
        return take(both, [place[i] for i in nodes])


def leaves(chain: Grouped, weights: Weights) -> Level:
    """The matrices A_k = sum_s e_k(s) G_k[s]: one batched product a group of variables of equal size."""
    shared, batched = [], []
    where: dict[int, tuple[bool, int]] = {}
    at = 0
    for group, some, e in weights.parts:
        ks, g = chain.groups[group]
        batched.append(torch.bmm(e, take(g, some).flatten(2)).unflatten(2, g.shape[2:]))
        where.update({ks[i]: (True, at + j) for j, i in enumerate(some)})
        at += len(some)
    at = 0
    for ks, g in chain.groups:
        rest = [i for i, k in enumerate(ks) if k not in where]
        if rest:
            shared.append(take(g, rest).sum(1))
            where.update({ks[i]: (False, at + j) for j, i in enumerate(rest)})
            at += len(rest)
    return Level(_joined(shared), _joined(batched), tuple(where[k] for k in range(len(where))))


def _joined(stacks: Sequence[Tensor]) -> Tensor | None:
    if not stacks:
        return None
    return stacks[0] if len(stacks) == 1 else torch.cat(list(stacks))


def touched(is_batched: Sequence[bool]) -> int:
    """How many products of the tree carry the batch."""
    count, level = 0, list(is_batched)
    while len(level) > 1:
        pairs = [a or b for a, b in zip(level[::2], level[1::2], strict=False)]
        count += sum(pairs)
        level = pairs + level[2 * len(pairs) :]
    return count


def product_tree(level: Level, rows: int) -> tuple[list[Level], Tensor]:
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
        pairs = len(level.where) // 2
        odd = [2 * pairs] if len(level.where) % 2 else []
        nodes = {flag: [i for i in range(pairs) if _either(level, i) is flag] for flag in (True, False)}
        where: dict[int, tuple[bool, int]] = {}
        stacks: dict[bool, list[Tensor]] = {True: [], False: []}
        for flag, some in nodes.items():
            if some:
                left = level.pick([2 * i for i in some], rows)
                right = level.pick([2 * i + 1 for i in some], rows)
                stacks[flag].append(left @ right if left.ndim == right.ndim else _mixed(left, right))
                where.update({i: (flag, j) for j, i in enumerate(some)})
        if odd:
            flag = level.where[odd[0]][0]
            where[pairs] = (flag, len(nodes[flag]))
            stacks[flag].append(level.pick(odd, rows))
        joined = Level(_joined(stacks[False]), _joined(stacks[True]), tuple(where[i] for i in range(len(where))))
        level = _rescale(joined, peaks)
        levels.append(level)
    log_scale = torch.cat([p for p in peaks if p.ndim == 1]).log().sum() if any(p.ndim == 1 for p in peaks) else 0.0
    batched_peaks = [p for p in peaks if p.ndim == 2]
    if batched_peaks:
        log_scale = log_scale + torch.cat(batched_peaks).log().sum(0)
    assert isinstance(log_scale, Tensor)
    return levels, log_scale


def _either(level: Level, pair: int) -> bool:
    return level.where[2 * pair][0] or level.where[2 * pair + 1][0]


def _mixed(left: Tensor, right: Tensor) -> Tensor:
    """A product of which one side is shared by the batch."""
    if left.ndim == 3:
        return left.unsqueeze(1) @ right
    return left @ right.unsqueeze(1)


def _rescale(level: Level, peaks: list[Tensor]) -> Level:
    """Divides every matrix by its largest entry; appends the divisors, (nodes,) and (nodes, rows)."""
    scaled = []
    for matrices in (level.shared, level.batched):
        if matrices is not None:
            # where a matrix is zero it is divided by one
            peak = functional.threshold(matrices.detach().amax((-2, -1)), 0, 1)
            peaks.append(peak)
            matrices = matrices / peak[..., None, None]
        scaled.append(matrices)
    return Level(scaled[0], scaled[1], level.where)
