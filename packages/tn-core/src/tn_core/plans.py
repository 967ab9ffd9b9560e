r"""How Z(e) is computed: the plans, what each costs, and how much memory one call may keep.

    tree      pairs of neighbouring matrices, then pairs of those: few steps, and what no evidence touches is computed
              without the batch; but all intermediate products go through memory.
    matrices  a sweep from left to right by products of matrices, a row of the batch each. The fastest for wide bonds on
              a CPU. Narrow bonds are swept in segments side by side, so that a step has enough to do.
    vectors   a sweep by vectors, for a train: a factor of the rank less arithmetic.
    sums      for bonds of width one nothing is left but a sum of logarithms.

``docs/performance.md`` has the figures that the constants of the cost function come from.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tn_core.cores import Boundary, Grouped, take
from tn_core.evidence import Weights
from tn_core.sweep import Sites, sweep
from tn_core.tree import leaves, product_tree, touched

__all__ = ["Plan", "choose", "contract", "get_memory_limit", "rows_at_once", "set_memory_limit", "shape_of"]

_memory_limit = 2**30


def set_memory_limit(bytes: int) -> None:
    """Sets how much one call may keep for its backward pass or for sampling (default: 1 GiB).

    Above it the batch is cut into slices, whose forward pass is done again in the backward pass: a third more work.

    Arguments:
        bytes: the limit, at least 1; of what the chain keeps beside its inputs. One row of the batch at a time is the
            least.

    Raises:
        ValueError: if it is below 1.
    """
    global _memory_limit
    if bytes < 1:
        raise ValueError(f"the memory limit must be at least 1 byte, got {bytes}")
    _memory_limit = bytes


def get_memory_limit() -> int:
    """The limit set by :func:`set_memory_limit`, in bytes."""
    return _memory_limit


@dataclass(frozen=True)
class Plan:
    """A way to compute Z(e).

    Attributes:
        kind: "tree"; "batched tree", in which what has no evidence is batched too, as products of mixed nodes are made
            one after another; "matrices", "vectors" or "sums".
        side: for "matrices", the number of segments side by side.
    """

    kind: str
    side: int = 1


@dataclass(frozen=True)
class _Machine:
    """What a step and an operation cost on a kind of device.

    Attributes:
        step: seconds for one step of a sweep (some five operators).
        level: seconds for one level of the tree.
        rate: multiplications and additions a second in products of large matrices.
        narrow: the width of the bonds at which a row's product has half that rate.
        tree_rate: the rate in the tree, whose products go through memory.
        bandwidth: bytes a second.
    """

    step: float
    level: float
    rate: float
    narrow: float
    tree_rate: float
    bandwidth: float


_CPU = _Machine(step=25e-6, level=80e-6, rate=2.2e11, narrow=30, tree_rate=2e10, bandwidth=1e10)
# of an NVIDIA H200; steps and levels are the launches' time
_CUDA = _Machine(step=75e-6, level=150e-6, rate=1.4e13, narrow=30, tree_rate=5.5e12, bandwidth=4e12)
_SIDE = 4  # segments of a sweep over narrow bonds; from 4 to 10 it makes no difference
_CACHE = 2**22  # bytes that a step of segments side by side may touch; beyond, a CPU does them faster one after another


@dataclass(frozen=True)
class _Shape:
    """What the cost of a contraction depends on.

    Attributes:
        sizes: the number of values of each variable.
        has_evidence: which of them have evidence.
        uniform: whether all cores lie in one stack.
        rows: the batch.
        rank: the padded width of the bonds.
        carried: the rows of the state that a sweep carries: the closing bond of a ring, one for a train.
        train: the boundary.
        cuda: the device.
    """

    sizes: tuple[int, ...]
    has_evidence: tuple[bool, ...]
    uniform: bool
    rows: int
    rank: int
    carried: int
    train: bool
    cuda: bool


def shape_of(chain: Grouped, weights: Weights, boundary: Boundary) -> _Shape:
    """What the cost of a contraction depends on, for :func:`choose`."""
    found = {chain.groups[group][0][i] for group, some, _ in weights.parts for i in some}
    train = boundary == "train"
    return _Shape(
        sizes=chain.sizes,
        has_evidence=tuple(k in found for k in range(len(chain.sizes))),
        uniform=len(chain.groups) == 1,
        rows=weights.rows,
        rank=chain.width,
        carried=1 if train else chain.bonds[0],
        train=train,
        cuda=chain.like.is_cuda,
    )


@lru_cache(maxsize=1024)
def choose(shape: _Shape) -> Plan:
    """The plan that costs least by a simple model of the machine."""
    if shape.rank == 1:
        return Plan("sums")
    plans = [Plan("tree")]
    if any(shape.has_evidence):
        plans += [Plan("batched tree"), Plan("matrices")]
        if shape.train:
            plans.append(Plan("vectors"))
        fits = shape.cuda or 3 * 4 * _SIDE * shape.rows * shape.rank**2 <= _CACHE
        if fits and len(shape.sizes) >= 2 * _SIDE:
            plans.append(Plan("matrices", _SIDE))
    costs = [_seconds(plan, shape) for plan in plans]
    return plans[costs.index(min(costs))]  # torch.compile before torch 2.7 knows no min(..., key=...)


def _seconds(plan: Plan, shape: _Shape) -> float:
    """What the forward pass of a plan costs."""
    machine = _CUDA if shape.cuda else _CPU
    n, m, rows = len(shape.sizes), shape.rank, shape.rows
    values = sum(size for size, has in zip(shape.sizes, shape.has_evidence, strict=True) if has)
    if plan.kind in ("tree", "batched tree"):
        known = sum(shape.has_evidence)
        batched, mixed = (
            (n - 1, 0) if plan.kind == "batched tree" else (touched(shape.has_evidence), min(known, n - known))
        )
        emission, products = 2 * rows * m**2 * values, 2 * m**3 * (rows * batched + n - 1 - batched)
        launches = math.ceil(math.log2(n)) * machine.level + mixed * machine.step
        return launches + emission / machine.rate + products / machine.tree_rate
    if plan.kind == "vectors":
        return n * machine.step + 2 * rows * m**2 * (values + n - sum(shape.has_evidence)) / machine.rate
    rate = machine.rate * m / (m + machine.narrow)
    if plan.side == 1:
        return n * machine.step + 2 * rows * m**2 * (values + n * shape.carried) / rate
    # every variable gets weights, all of the largest size; if sizes differ, the cores are copied for that
    largest = max(shape.sizes)
    operations = 2 * rows * m**2 * (n * largest + (n + plan.side) * m)
    copied = 0 if shape.uniform else 2 * 4 * n * largest * m**2
    return (n / plan.side + 2 * plan.side) * machine.step + operations / rate + copied / machine.bandwidth


def contract(chain: Grouped, weights: Weights, boundary: Boundary, plan: Plan | None = None) -> tuple[Tensor, Tensor]:
    """Z(e) by a plan: a number of moderate size and the log of what was divided out of it, (rows,) each.

    Arguments:
        chain: the cores.
        weights: the evidence.
        boundary: "ring" or "train".
        plan: None: the cheapest.
    """
    plan = choose(shape_of(chain, weights, boundary)) if plan is None else plan
    at_once = rows_at_once(plan, chain, weights, boundary)
    if weights.rows <= at_once:
        return _run(plan, chain, weights, boundary)
    pieces = [_slice(plan, chain, some, boundary) for some in weights.split(at_once)]
    z, log_scale = zip(*pieces, strict=True)
    return torch.cat(z), torch.cat(log_scale)


def rows_at_once(plan: Plan, chain: Grouped, weights: Weights, boundary: Boundary) -> int:
    """How many rows of the batch stay below the memory limit."""
    return _rows_at_once(plan, shape_of(chain, weights, boundary), chain.like.element_size(), _memory_limit)


@lru_cache(maxsize=1024)
def _rows_at_once(plan: Plan, shape: _Shape, bytes: int, limit: int) -> int:
    n, m = len(shape.sizes), shape.rank
    if plan.kind == "tree":
        # the leaves and the nodes, each as the product and as it is after scaling
        numbers = 2 * m**2 * (sum(shape.has_evidence) + touched(shape.has_evidence))
    elif plan.kind == "batched tree":
        numbers = 2 * m**2 * (2 * n - 1)
    else:
        numbers = n * m * (1 if plan.kind in ("vectors", "sums") else shape.carried if plan.side == 1 else m)
    return max(1, limit // max(1, bytes * numbers))


def _slice(plan: Plan, chain: Grouped, weights: Weights, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """A slice of the batch, of which nothing is kept for the backward pass."""
    if not torch.is_grad_enabled():
        return _run(plan, chain, weights, boundary)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        again, given = chain.with_cores(tensors[: len(chain.groups)]), iter(tensors[len(chain.groups) :])
        parts = tuple((group, some, next(given)) for group, some, _ in weights.parts)
        return _run(plan, again, Weights(weights.batch, parts, weights.log_scale), boundary)

    tensors = (*(g for _, g in chain.groups), *(e for _, _, e in weights.parts))
    z, log_scale = checkpoint(run, *tensors, use_reentrant=False, preserve_rng_state=False)
    return z, log_scale


def _run(plan: Plan, chain: Grouped, weights: Weights, boundary: Boundary) -> tuple[Tensor, Tensor]:
    if plan.kind == "sums":
        return _sums(chain, weights)
    if plan.kind in ("tree", "batched tree"):
        levels, log_scale = product_tree(leaves(chain, weights, plan.kind == "batched tree"))
        return _close(levels[-1].matrix(0), boundary), log_scale
    if plan.side > 1:
        return _segments(plan.side, chain, weights, boundary)
    return _sweep(chain, weights, boundary, plan.kind == "vectors")


def _close(matrix: Tensor, boundary: Boundary) -> Tensor:
    """The trace of a ring, the sum of a train."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1) if boundary == "ring" else matrix.sum((-2, -1))


def _sums(chain: Grouped, weights: Weights) -> tuple[Tensor, Tensor]:
    """Bonds of width one: every matrix is a number, which is divided by itself, so that only logarithms are left."""
    level = leaves(chain, weights)
    z, log_scale = chain.like.new_ones(()), chain.like.new_zeros(())
    for matrices in (level.shared, level.batched):
        if matrices is not None:
            numbers = matrices[..., 0, 0]
            peak = functional.threshold(numbers.detach(), 0, 1)
            log_scale = log_scale + peak.log().sum(0)
            z = z * _product(numbers / peak)
    return z, log_scale


def _product(numbers: Tensor) -> Tensor:
    """The product along the first axis; its derivative is right at zeros, without a look at where they are."""
    while len(numbers) > 1:
        half = len(numbers) // 2
        left, right, rest = numbers.split([half, half, len(numbers) - 2 * half])
        numbers = torch.cat([left * right, rest]) if len(rest) else left * right
    return numbers[0]


def _sweep(chain: Grouped, weights: Weights, boundary: Boundary, vectors: bool) -> tuple[Tensor, Tensor]:
    """One sweep over all variables, each with the cores and the evidence as they are given."""
    evidence = {
        (group, i): (part, j) for part, (group, some, _) in enumerate(weights.parts) for j, i in enumerate(some)
    }
    steps = {
        k: (group, i, evidence.get((group, i))) for group, (ks, _) in enumerate(chain.groups) for i, k in enumerate(ks)
    }
    carried = chain.bonds[0]
    sites = Sites(
        tuple(steps[k] for k in range(len(steps))),
        opening="sum" if boundary == "train" else "matrix" if carried == chain.width else carried,
        vectors=vectors,
        logs=chain.logs,
    )
    state, log_scale = sweep(sites, weights.rows, [g for _, g in chain.groups], [e for _, _, e in weights.parts])
    return _close(state[0], boundary), log_scale[0]


def _segments(side: int, chain: Grouped, weights: Weights, boundary: Boundary) -> tuple[Tensor, Tensor]:
    """Segments of the chain side by side, then the product of what they come to."""
    cores, evidence = _in_order(chain, weights)
    length = len(cores) // side
    rest = len(cores) - side * length
    state, log_scale = None, chain.like.new_zeros(())
    for c, count, g, e in zip(
        (side, 1),
        (length, rest),
        cores.split([side * length, rest]),
        evidence.split([side * length, rest]),
        strict=True,
    ):
        if count == 0:
            continue
        sites = Sites(tuple((0, i, (0, i)) for i in range(count)), c)
        products, scales = sweep(sites, weights.rows, [g], [e])
        log_scale = log_scale + scales.sum(0)
        for product in products.unbind(0):
            # both factors are of order one, or a product of small cores would leave the range of the dtype
            product, log_peak = _rescaled(product)
            log_scale = log_scale + log_peak
            if state is None:
                state = product
            else:
                state, log_peak = _rescaled(state @ product)
                log_scale = log_scale + log_peak
    assert state is not None
    return _close(state, boundary), log_scale


def _rescaled(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices (rows, m, m) divided by their largest entries, constants to autograd, and the logs of those."""
    peak = functional.threshold(matrices.detach().amax((1, 2), keepdim=True), 0, 1)
    return matrices / peak, peak.log().flatten()


def _in_order(chain: Grouped, weights: Weights) -> tuple[Tensor, Tensor]:
    """The cores (n, N, m, m) and weights (n, rows, N) of all variables in order: padded, ones where unknown."""
    largest = max(chain.sizes)
    cores: list[Tensor] = []
    evidence: list[Tensor] = []
    core_order: list[int] = []
    evidence_order: list[int] = []
    for ks, g in chain.plain.groups:
        cores.append(functional.pad(g, (0, 0, 0, 0, 0, largest - g.shape[1])) if g.shape[1] < largest else g)
        core_order += ks
    for group, some, e in weights.parts:
        evidence.append(functional.pad(e, (0, largest - e.shape[2])) if e.shape[2] < largest else e)
        evidence_order += [chain.groups[group][0][i] for i in some]
    rest = sorted(set(core_order) - set(evidence_order))
    if rest:
        evidence.append(chain.like.new_ones(len(rest), weights.rows, largest))
        evidence_order += rest
    return _arranged(cores, core_order), _arranged(evidence, evidence_order)


def _arranged(stacks: list[Tensor], order: list[int]) -> Tensor:
    """The stacks one after another, then put in order."""
    stack = stacks[0] if len(stacks) == 1 else torch.cat(stacks)
    place = {k: j for j, k in enumerate(order)}
    return take(stack, [place[k] for k in range(len(order))])
