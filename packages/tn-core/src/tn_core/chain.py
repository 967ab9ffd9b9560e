r"""Non-negative tensor chains: partition function and marginals.

A chain over n discrete variables weighs a state s = (s_1, ..., s_n) by

    ring:   W[s] = Tr(G_1[s_1] G_2[s_2] ... G_n[s_n])
    train:  W[s] = 1' G_1[s_1] G_2[s_2] ... G_n[s_n] 1

with non-negative matrices G_k[s] ("cores"). Evidence is one non-negative weight e_k(s) a variable and value, given as
its logarithm: one-hot for an observed variable, 0/1 for a set of values, a likelihood for soft evidence, ones for an
unknown one. Everything follows from

    Z(e) = sum_s W[s] prod_k e_k(s_k).

Shapes. ``cores``: a tensor (n, N, m, m), or a sequence of tensors (N_k, m_k, m_{k+1}). ``log_evidence``: a tensor
(\*batch, n, N), minus infinity where a value is ruled out or does not exist (N is the largest N_k); or a mapping from
positions to tensors (\*batch, N_k), the other variables being unknown; or None, all unknown. Variables without
evidence are contracted once for the whole batch.

References:
    Kuznetsov et al., A Prior of a Googol Gaussians, 2019: equations 1 and 2, algorithm 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Boundary", "Cores", "Evidence", "Grouped", "log_partition", "marginals"]

Boundary = Literal["ring", "train"]
Evidence = Tensor | Mapping[int, Tensor] | None


@dataclass(frozen=True)
class Grouped:
    """Cores stacked by their number of values, bonds padded with zeros to one width.

    Padding is exact: a zero row or column adds nothing to a trace or to a sum.

    Attributes:
        groups: pairs of positions and cores (len(positions), N, m, m).
        bonds: the widths m_1, ..., m_{n+1} before padding.
    """

    groups: tuple[tuple[tuple[int, ...], Tensor], ...]
    bonds: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each variable."""
        sizes = {k: g.shape[1] for positions, g in self.groups for k in positions}
        return tuple(sizes[k] for k in range(len(sizes)))

    @property
    def like(self) -> Tensor:
        """Any of the tensors, for dtype and device."""
        return self.groups[0][1]

    @property
    def width(self) -> int:
        """The padded bond width m."""
        return self.like.shape[-1]


Cores = Tensor | Sequence[Tensor] | Grouped


def group(cores: Cores, boundary: Boundary) -> Grouped:
    """Checks cores and stacks them.

    Raises:
        ValueError: if the shapes do not make a chain.
    """
    if boundary not in ("ring", "train"):
        raise ValueError(f"boundary must be 'ring' or 'train', got {boundary!r}")
    if isinstance(cores, Grouped):
        return cores
    if isinstance(cores, Tensor):
        if cores.ndim != 4 or cores.shape[2] != cores.shape[3] or 0 in cores.shape:
            raise ValueError(f"cores must have shape (n, N, m, m), none of them 0; got {tuple(cores.shape)}")
        n, m = cores.shape[0], cores.shape[2]
        return Grouped(((tuple(range(n)), cores),), (m,) * (n + 1))
    if not cores:
        raise ValueError("a chain needs at least one core")
    for k, g in enumerate(cores):
        if g.ndim != 3 or 0 in g.shape:
            raise ValueError(f"core {k} must have shape (N, m_left, m_right), none of them 0; got {tuple(g.shape)}")
        if k and g.shape[1] != cores[k - 1].shape[2]:
            raise ValueError(
                f"core {k} has left bond {g.shape[1]}, core {k - 1} has right bond {cores[k - 1].shape[2]}"
            )
    bonds = (*(g.shape[1] for g in cores), cores[-1].shape[2])
    if boundary == "ring" and bonds[0] != bonds[-1]:
        raise ValueError(f"a ring must close: its first bond is {bonds[0]}, its last is {bonds[-1]}")
    m = max(bonds)
    positions: dict[int, list[int]] = {}
    for k, g in enumerate(cores):
        positions.setdefault(g.shape[0], []).append(k)
    pad = [torch.nn.functional.pad(g, (0, m - g.shape[2], 0, m - g.shape[1])) for g in cores]
    return Grouped(tuple((tuple(ks), torch.stack([pad[k] for k in ks])) for ks in positions.values()), bonds)


@dataclass(frozen=True)
class Weights:
    """Evidence as weights of at most one, batch flattened.

    Attributes:
        batch: the batch shape; () if nothing is batched.
        groups: for each group of the chain, the indices in it of the variables that have evidence, and their weights
            (len(indices), rows, N).
        log_scale: (rows,) or (), what was divided out.
    """

    batch: torch.Size
    groups: tuple[tuple[tuple[int, ...], Tensor | None], ...]
    log_scale: Tensor

    @property
    def rows(self) -> int:
        """The number of batch entries."""
        return self.batch.numel()


def weigh(chain: Grouped, log_evidence: Evidence) -> Weights:
    """Checks evidence and turns it into weights.

    Raises:
        ValueError: if a shape does not fit the chain.
    """
    sizes = chain.sizes
    n, largest = len(sizes), max(sizes)
    none = ((), None)
    if log_evidence is None:
        return Weights(torch.Size(), (none,) * len(chain.groups), chain.like.new_zeros(()))
    if isinstance(log_evidence, Tensor):
        if log_evidence.shape[-2:] != (n, largest):
            raise ValueError(
                f"log_evidence must have shape (*batch, {n}, {largest}) for this chain, got {tuple(log_evidence.shape)}"
            )
        flat = log_evidence.reshape(-1, n, largest).transpose(0, 1)
        peak = _peak(flat)
        scaled = torch.exp(flat - peak)
        groups = tuple((tuple(range(len(ks))), take(scaled, list(ks))[..., : g.shape[1]]) for ks, g in chain.groups)
        return Weights(log_evidence.shape[:-2], groups, peak.sum((0, 2)))
    for k, e in log_evidence.items():
        if not 0 <= k < n or e.ndim < 1 or e.shape[-1] != sizes[k]:
            allowed = f"(*batch, {sizes[k]})" if 0 <= k < n else f"none: positions are 0 to {n - 1}"
            raise ValueError(f"evidence at position {k} must have shape {allowed}, got {tuple(e.shape)}")
    try:
        batch = torch.broadcast_shapes(*(e.shape[:-1] for e in log_evidence.values()))
    except RuntimeError:
        shapes = {k: tuple(e.shape[:-1]) for k, e in log_evidence.items()}
        raise ValueError(f"the batch shapes of the evidence do not broadcast: {shapes}") from None
    log_scale = chain.like.new_zeros(())
    stacked: list[tuple[tuple[int, ...], Tensor | None]] = []
    for ks, g in chain.groups:
        some = tuple(i for i, k in enumerate(ks) if k in log_evidence)
        if not some:
            stacked.append(none)
            continue
        e = torch.stack([log_evidence[ks[i]].expand(*batch, -1).reshape(-1, g.shape[1]) for i in some])
        peak = _peak(e)
        log_scale = log_scale + peak.sum((0, 2))
        stacked.append((some, torch.exp(e - peak)))
    return Weights(batch, tuple(stacked), log_scale)


def _peak(log_weights: Tensor) -> Tensor:
    """The largest log weight of a variable, 0 where all are minus infinity; a constant to autograd."""
    peak = log_weights.detach().amax(-1, keepdim=True)
    return torch.where(torch.isfinite(peak), peak, 0)


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


def take(stack: Tensor, index: list[int]) -> Tensor:
    """Selects along the first axis, as a view where the index is a range."""
    if len(index) == 1:
        return stack[index[0] : index[0] + 1]
    step = index[1] - index[0]
    if step > 0 and index == list(range(index[0], index[-1] + 1, step)):
        return stack[index[0] : index[-1] + 1 : step]
    return stack[torch.tensor(index, device=stack.device)]


def leaves(chain: Grouped, weights: Weights) -> Level:
    """The matrices A_k = sum_s e_k(s) G_k[s]: one batched product a group of variables of equal size."""
    shared, batched = [], []
    at_shared, at_batched = 0, 0
    where: dict[int, tuple[bool, int]] = {}
    for (ks, g), (some, e) in zip(chain.groups, weights.groups, strict=True):
        if e is not None:
            batched.append(torch.bmm(e, take(g, list(some)).flatten(2)).unflatten(2, g.shape[2:]))
            where.update({ks[i]: (True, at_batched + j) for j, i in enumerate(some)})
            at_batched += len(some)
        rest = sorted(set(range(len(ks))) - set(some))
        if rest:
            shared.append(take(g, rest).sum(1))
            where.update({ks[i]: (False, at_shared + j) for j, i in enumerate(rest)})
            at_shared += len(rest)
    return Level(
        torch.cat(shared) if shared else None,
        torch.cat(batched) if batched else None,
        tuple(where[k] for k in range(len(where))),
    )


def product_tree(level: Level, rows: int) -> tuple[list[Level], Tensor]:
    """All levels of the pairwise product tree, the root last, and the log of what was divided out on the way.

    Every matrix is divided by its largest entry, a constant to autograd, so that neither a long chain nor small
    cores leave the range of the dtype. An odd node out moves up a level as it is.
    """
    level, log_scale = _rescale(level)
    levels = [level]
    while len(level.where) > 1:
        pairs = len(level.where) // 2
        odd = [2 * pairs] if len(level.where) % 2 else []
        touched = [i for i in range(pairs) if level.where[2 * i][0] or level.where[2 * i + 1][0]]
        untouched = [i for i in range(pairs) if not (level.where[2 * i][0] or level.where[2 * i + 1][0])]
        where: dict[int, tuple[bool, int]] = {}
        stacks: dict[bool, list[Tensor]] = {True: [], False: []}
        for is_batched, nodes in ((True, touched), (False, untouched)):
            if nodes:
                left = level.pick([2 * i for i in nodes], rows)
                right = level.pick([2 * i + 1 for i in nodes], rows)
                stacks[is_batched].append(left @ right if left.ndim == right.ndim else _mixed(left, right))
                where.update({i: (is_batched, j) for j, i in enumerate(nodes)})
        if odd:
            is_batched = level.where[odd[0]][0]
            where[pairs] = (is_batched, sum(b == is_batched for b, _ in where.values()))
            stacks[is_batched].append(level.pick(odd, rows))
        level, scale = _rescale(
            Level(
                torch.cat(stacks[False]) if stacks[False] else None,
                torch.cat(stacks[True]) if stacks[True] else None,
                tuple(where[i] for i in range(len(where))),
            )
        )
        log_scale = log_scale + scale
        levels.append(level)
    return levels, log_scale


def _mixed(left: Tensor, right: Tensor) -> Tensor:
    """A product of which one side is shared by the batch."""
    if left.ndim == 3:
        return left.unsqueeze(1) @ right
    return left @ right.unsqueeze(1)


def _rescale(level: Level) -> tuple[Level, Tensor]:
    """Divides every matrix by its largest entry; returns the sum of the logs, () or (rows,)."""
    shared, batched, total = level.shared, level.batched, None
    if shared is not None:
        peak = shared.detach().amax((-2, -1), keepdim=True)
        peak = torch.where(peak > 0, peak, 1)
        shared, total = shared / peak, peak.log().sum()
    if batched is not None:
        peak = batched.detach().amax((-2, -1), keepdim=True)
        peak = torch.where(peak > 0, peak, 1)
        batched = batched / peak
        log_peak = peak.log().sum((0, 2, 3))
        total = log_peak if total is None else total + log_peak
    assert total is not None
    return Level(shared, batched, level.where), total


def log_or_minus_infinity(x: Tensor) -> Tensor:
    """log x, minus infinity with zero gradient (not NaN) at zero. NaN stays NaN."""
    zero = x == 0
    return torch.where(zero, -torch.inf, torch.log(torch.where(zero, 1, x)))


def _contract(chain: Grouped, weights: Weights, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Z by the plan for the boundary: a number of moderate size and the log of what was divided out of it."""
    return _tree_plan(chain, weights) if boundary == "ring" else _vector_plan(chain, weights)


def _tree_plan(chain: Grouped, weights: Weights) -> tuple[Tensor, Tensor]:
    """Z of a ring: a tree of matrix products, O(rows n m^3), depth log2 n."""
    levels, log_scale = product_tree(leaves(chain, weights), weights.rows)
    root = levels[-1].pick([0], weights.rows)[0]
    return root.diagonal(dim1=-2, dim2=-1).sum(-1), log_scale


def _vector_plan(chain: Grouped, weights: Weights) -> tuple[Tensor, Tensor]:
    """Z of a train: a row vector goes down the chain, O(rows n N m^2) and no matrix product a row."""
    steps = by_position(chain, weights)
    v = chain.like.new_ones(1, chain.width)
    log_scale = chain.like.new_zeros(())
    for g, e in steps:
        if e is None:
            v = v @ g.sum(0)
        else:
            # shape: (rows, N, m) = (rows, m) x (N, m, m); then the values are weighted by the evidence and added
            moved = torch.matmul(v, g).transpose(0, 1)
            v = (e.unsqueeze(1) @ moved).squeeze(1)
        peak = v.detach().amax(-1, keepdim=True)
        peak = torch.where(peak > 0, peak, 1)
        v = v / peak
        log_scale = log_scale + peak.log().squeeze(-1)
    return v.sum(-1), log_scale


def by_position(chain: Grouped, weights: Weights) -> list[tuple[Tensor, Tensor | None]]:
    """For each variable in order its core (N, m, m) and its evidence (rows, N), None where unknown."""
    found: dict[int, tuple[Tensor, Tensor | None]] = {}
    for (ks, g), (some, e) in zip(chain.groups, weights.groups, strict=True):
        cores, seen = g.unbind(0), dict(zip(some, () if e is None else e.unbind(0), strict=True))
        found.update({k: (cores[i], seen.get(i)) for i, k in enumerate(ks)})
    return [found[k] for k in range(len(found))]


def log_partition(cores: Cores, log_evidence: Evidence = None, *, boundary: Boundary = "ring") -> Tensor:
    r"""Returns log Z(e), the log of the weight of all states under the evidence.

    Differentiable in the cores and in the evidence. Minus infinity where the evidence rules out every state. Within
    one product entries that are smaller than the largest by more than the dtype's range count as zero: with cores that
    hold exact zeros, evidence against all but such entries may underflow to minus infinity.

    Arguments:
        cores: (n, N, m, m), or a sequence of (N_k, m_k, m_{k+1}); non-negative.
        log_evidence: (\*batch, n, N), or a mapping from positions to (\*batch, N_k), or None for no evidence.
        boundary: "ring" (closed by a trace) or "train" (open, closed by vectors of ones).

    Returns:
        (\*batch,), in nats.

    Raises:
        ValueError: if a shape or the boundary is not as above.
    """
    chain = group(cores, boundary)
    weights = weigh(chain, log_evidence)
    z, log_scale = _contract(chain, weights, boundary)
    return (log_or_minus_infinity(z) + log_scale + weights.log_scale).reshape(weights.batch)


def marginals(
    cores: Cores,
    log_evidence: Evidence = None,
    *,
    boundary: Boundary = "ring",
    own_evidence: bool = True,
) -> Tensor:
    r"""Returns p(s_k | e) for every variable and value: d log Z(e) / d log e_k(s), by one backward pass.

    Differentiable in cores and evidence if they require gradients and gradients are enabled.

    Arguments:
        cores: as in :func:`log_partition`.
        log_evidence: as in :func:`log_partition`.
        boundary: "ring" or "train".
        own_evidence: False leaves a variable's own evidence out of its posterior: p(s_k | evidence of the others).

    Returns:
        (\*batch, n, N) with N the largest number of values; zero where a value does not exist.

    Raises:
        ValueError: if a shape or the boundary is not as in :func:`log_partition`.
    """
    chain = group(cores, boundary)
    weights = weigh(chain, log_evidence)
    differentiable = torch.is_grad_enabled() and (
        any(g.requires_grad for _, g in chain.groups)
        or any(e is not None and e.requires_grad for _, e in weights.groups)
    )
    if torch.is_inference_mode_enabled():
        # a derivative is taken here, which tensors made in inference mode do not allow: work on copies
        with torch.inference_mode(False):
            chain = Grouped(tuple((ks, g.clone()) for ks, g in chain.groups), chain.bonds)
            copies = tuple((some, None if e is None else e.clone()) for some, e in weights.groups)
            weights = Weights(weights.batch, copies, weights.log_scale.clone())
    with torch.inference_mode(False), torch.enable_grad():
        full = []
        for (ks, g), (some, e) in zip(chain.groups, weights.groups, strict=True):
            w = g.new_ones(len(ks), weights.rows, g.shape[1])
            if e is not None:
                w = w.index_copy(0, torch.tensor(some, device=w.device), e) if len(some) < len(ks) else e
            if not differentiable:
                w = w.detach()
            full.append(w if w.requires_grad else w.requires_grad_())
        groups = chain.groups if differentiable else tuple((ks, g.detach()) for ks, g in chain.groups)
        every = tuple((tuple(range(len(ks))), w) for (ks, _), w in zip(groups, full, strict=True))
        z, _ = _contract(Grouped(groups, chain.bonds), Weights(weights.batch, every, weights.log_scale), boundary)
        # dZ / de_k(s) is the weight of the value without its own evidence, right even where Z is zero
        slopes = torch.autograd.grad(z.sum(), full, create_graph=differentiable)
    sizes = chain.sizes
    found: dict[int, Tensor] = {}
    for (ks, _), w, slope in zip(chain.groups, full, slopes, strict=True):
        posterior = slope * (w if differentiable else w.detach()) if own_evidence else slope
        posterior = torch.nn.functional.pad(posterior, (0, max(sizes) - posterior.shape[-1]))
        found.update(zip(ks, posterior.unbind(0), strict=True))
    result = torch.stack([found[k] for k in range(len(sizes))], 1)
    total = result.sum(-1, keepdim=True)
    return (result / torch.where(total > 0, total, 1)).reshape(*weights.batch, len(sizes), max(sizes))
