"""Every plan gives the same Z, the same derivatives and the same second derivatives; the limits on memory are kept."""

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product

import pytest
import torch
from test_chain import by_steps
from tn_core_oracle import KINDS, chain_of, dense, evidence_for, log_weights, posterior, sizes_of
from torch import Tensor

from tn_core import TensorChain, get_memory_limit, log_partition, marginals, plans, sample, set_memory_limit
from tn_core.chain import log_or_minus_infinity
from tn_core.cores import Boundary, Grouped, group
from tn_core.evidence import Evidence, Weights, weigh
from tn_core.plans import Plan, choose, contract
from tn_core.tree import leaves, product_tree, step_up, touched

TREE, BATCHED, SWEEP = Plan("tree"), Plan("batched tree"), Plan("matrices")
SEGMENTS, VECTORS = Plan("matrices", 4), Plan("vectors")


def plans_for(kind: str, n: int) -> list[Plan]:
    """The plans that a chain allows."""
    allowed = [TREE, BATCHED, SWEEP]
    if kind.endswith("train"):
        allowed.append(VECTORS)
    if n >= 4:
        allowed.append(SEGMENTS)
    return allowed


CASES = [(kind, n, plan) for kind in KINDS for n in (1, 2, 5, 7) for plan in plans_for(kind, n)]


def by_plan(plan: Plan, chain: Grouped, evidence: Evidence, boundary: Boundary) -> Tensor:
    """log Z by a plan."""
    weights = weigh(chain, evidence)
    z, log_scale = contract(chain, weights, boundary, plan)
    return (log_or_minus_infinity(z) + log_scale + weights.log_scale).reshape(weights.batch)


def logs_of(chain: Grouped) -> Grouped:
    """The same chain, given by logarithms."""
    return Grouped(tuple((ks, g.log()) for ks, g in chain.groups), chain.bonds, logs=True)


@pytest.mark.parametrize("logs", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("kind", "n", "plan"), CASES)
def test_every_plan_against_enumeration(kind: str, n: int, plan: Plan, zeros: bool, logs: bool) -> None:
    cores, boundary = chain_of(kind, n, zeros=zeros)
    sizes = sizes_of(cores)
    chain = group(cores, boundary)
    chain = logs_of(chain) if logs else chain
    full = evidence_for(sizes, (6,))
    # all variables, and all but one
    for evidence in (full, {k: full[:, k, : sizes[k]] for k in range(n) if k != n // 2 or n == 1}):
        expected = log_weights(cores, boundary, evidence).logsumexp(-1)
        torch.testing.assert_close(by_plan(plan, chain, evidence, boundary), expected, atol=1e-10, rtol=1e-10)


def test_every_pattern_of_evidence_in_a_tree() -> None:
    """At every level the nodes multiply to the chain; what has no evidence goes first, so little carries the batch."""
    n, m, rows = 9, 3, 2
    cores, full = torch.rand(n, 2, m, m, dtype=torch.float64), torch.randn(rows, n, 2, dtype=torch.float64)
    for pattern in product((False, True), repeat=n):
        seen = torch.tensor(pattern).view(n, 1)
        matrices = torch.einsum("rks,ksab->krab", full.where(seen, 0).exp(), cores)
        weights = weigh(chain := group(cores, "train"), {k: full[:, k] for k in range(n) if pattern[k]} or None)
        levels, _ = product_tree(leaves(chain, weights))
        for level in levels:
            nodes = [level.matrix(i).expand(rows, m, m) for i in range(len(level.where))]
            found, expected = reduce(torch.matmul, nodes), reduce(torch.matmul, matrices)
            # all levels leave out a scale
            torch.testing.assert_close(found / found.sum((1, 2), True), expected / expected.sum((1, 2), True))
        made = [p for level in levels[:-1] for p in step_up(level.where).products]
        batched = sum(len(p.pairs) for p in made if p.left_batched or p.right_batched)
        runs = sum(not has and (k == 0 or pattern[k - 1]) for k, has in enumerate(pattern))
        assert batched == touched(pattern) == (sum(pattern) + runs - 1 if any(pattern) else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_normal_numbers_or_zero(dtype: torch.dtype) -> None:
    """Subnormal ones would make every product that meets them slow; all others are exact."""
    lowest = math.log(torch.finfo(dtype).tiny)
    logs = torch.linspace(1.3 * lowest, 0, 1001, dtype=dtype, requires_grad=True)
    weights = weigh(group(torch.rand(1, 1001, 2, 2, dtype=dtype), "ring"), logs.view(1, 1, -1)).parts[0][2].flatten()
    kept = logs >= lowest + 1
    expected = logs.detach().double().exp().where(kept, 0).to(dtype)
    torch.testing.assert_close(weights.detach(), expected, rtol=1e-5, atol=0)
    (slopes,) = torch.autograd.grad(weights.sum(), logs)
    assert torch.equal(slopes, weights.detach())
    assert not bool(((weights > 0) & (weights < torch.finfo(dtype).tiny)).any())


def soft(sizes: Sequence[int], rows: int) -> Tensor:
    """Evidence without zeros."""
    exists = torch.arange(max(sizes)) < torch.tensor(list(sizes)).unsqueeze(1)
    return torch.where(exists, torch.randn(rows, len(sizes), max(sizes), dtype=torch.float64), -torch.inf)


@pytest.mark.parametrize("logs", [False, True])
@pytest.mark.parametrize(("kind", "n", "plan"), [case for case in CASES if case[1] in (1, 5)])
def test_derivatives_of_every_plan(kind: str, n: int, plan: Plan, logs: bool) -> None:
    """Against autograd through the enumeration, and the second ones against finite differences."""
    cores, boundary = chain_of(kind, n)
    sizes = sizes_of(cores)
    evidence = soft(sizes, 3).requires_grad_()
    inputs = [g.requires_grad_() for g in cores]
    expected = torch.autograd.grad(log_weights(inputs, boundary, evidence).logsumexp(-1).sum(), [evidence, *inputs])

    def log_z(e: Tensor, *cs: Tensor) -> Tensor:
        chain = group(list(cs), boundary)
        return by_plan(plan, logs_of(chain) if logs and kind in ("ring", "train") else chain, e, boundary)

    found = torch.autograd.grad(log_z(evidence, *inputs).sum(), [evidence, *inputs])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)
    if n == 5:
        assert torch.autograd.gradgradcheck(lambda e: log_z(e, *inputs), (evidence,))


@pytest.mark.parametrize("plan", [SWEEP, SEGMENTS, VECTORS])
def test_derivatives_of_the_evidence_alone(plan: Plan) -> None:
    """Where the cores are fixed, only the states before the variables asked for are kept."""
    cores = torch.rand(9, 3, 4, 4, dtype=torch.float64)
    full = soft([3] * 9, 5)
    some = full[:, [2, 6]].clone().requires_grad_()
    rest = {k: full[:, k] for k in range(9) if k not in (2, 6)}
    chain = group(cores, "train")
    log_z = by_plan(plan, chain, {**rest, (2, 6): some}, "train")
    (found,) = torch.autograd.grad(log_z.sum(), some)
    torch.testing.assert_close(found, marginals(cores, full, boundary="train", variables=[2, 6]))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize(
    ("plan", "boundary"),
    [
        (TREE, "ring"),
        (BATCHED, "ring"),
        (SWEEP, "ring"),
        (SEGMENTS, "ring"),
        (SWEEP, "train"),
        (VECTORS, "train"),
        (SEGMENTS, "train"),
    ],
)
def test_every_plan_stays_in_range(plan: Plan, boundary: Boundary, scale: float) -> None:
    """Weights of e^-160,000 in all, far outside float32, with gradients."""
    n, values, m = 200, 5, 4
    cores = (scale * torch.rand(n, values, m, m)).requires_grad_()
    evidence = (-800 * torch.rand(3, n, values)).requires_grad_()
    log_z = by_plan(plan, group(cores, boundary), evidence, boundary)
    found = torch.autograd.grad(log_z.sum(), [evidence, cores])
    exact_cores, exact_evidence = cores.detach().double().requires_grad_(), evidence.detach().double().requires_grad_()
    exact = by_steps(exact_cores, exact_evidence, boundary)
    expected = torch.autograd.grad(exact.sum(), [exact_evidence, exact_cores])
    torch.testing.assert_close(log_z.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((found[1] * cores).double(), expected[1] * exact_cores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_bonds_of_width_one(boundary: Boundary) -> None:
    """A product of independent variables; zeros among the factors leave the derivatives of the others right."""
    cores = [torch.rand(size, 1, 1, dtype=torch.float64) for size in (3, 2, 4)]
    full = evidence_for([3, 2, 4], (5,))
    full[0, 1] = -torch.inf
    for evidence in (full, {1: full[:, 1, :2]}, None):
        dense_evidence = dense([3, 2, 4], evidence)
        expected = log_weights(cores, boundary, evidence).logsumexp(-1)
        torch.testing.assert_close(log_partition(cores, evidence, boundary=boundary), expected)
        for own in (True, False):
            found = marginals(cores, evidence, boundary=boundary, own_evidence=own)
            torch.testing.assert_close(found, posterior(cores, boundary, dense_evidence, own))


def _pick(
    sizes: Sequence[int], rank: int, rows: int, train: bool = False, known: int | None = None, cuda: bool = False
) -> Plan:
    n = len(sizes)
    has = tuple(known is None or (k + 1) * known // n > k * known // n for k in range(n))  # evenly spread
    return choose(plans._Shape(tuple(sizes), has, len(set(sizes)) == 1, rows, rank, 1 if train else rank, train, cuda))


def test_the_choice_of_a_plan() -> None:
    """What docs/performance.md found: the tree where nothing is batched or launches count, sweeps on a CPU."""
    assert _pick([10] * 100, 1, 128).kind == "sums"
    assert _pick([10] * 100, 10, 128) == SEGMENTS
    assert _pick([10] * 100, 20, 128) == SEGMENTS
    assert _pick([10] * 100, 50, 128) == SWEEP
    assert _pick([10] * 100, 100, 128) == SWEEP
    assert _pick([10] * 100, 10, 128, train=True) == SEGMENTS
    assert _pick([10] * 100, 20, 128, train=True) == VECTORS
    assert _pick([10] * 100, 50, 128, train=True) == VECTORS
    assert _pick([10] * 100, 50, 1, known=0) == TREE
    assert _pick([10] * 100, 20, 128, cuda=True) == TREE
    assert _pick([10] * 114, 20, 128, known=100, cuda=True) == BATCHED
    assert _pick([10] * 100, 100, 1000, known=2, cuda=True) == TREE
    assert _pick([10] * 100, 100, 1000, cuda=True) == SEGMENTS
    assert _pick([10] * 100, 100, 1000, train=True, cuda=True) == VECTORS


@pytest.fixture
def limit() -> Iterator[None]:
    """The limit as it was."""
    before = get_memory_limit()
    yield
    set_memory_limit(before)


@pytest.mark.parametrize(
    ("plan", "boundary", "rows"),
    # bytes a row: what the plan keeps, 8 a number
    [(SWEEP, "ring", 3), (SEGMENTS, "ring", 3), (VECTORS, "train", 12), (TREE, "ring", 1), (BATCHED, "ring", 1)],
)
@pytest.mark.usefixtures("limit")
def test_slices_of_the_batch(plan: Plan, boundary: Boundary, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers and gradients, and never more rows at once than fit."""
    cores = torch.rand(9, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    evidence = soft([3] * 9, 20).requires_grad_()
    chain = group(cores, boundary)
    whole = by_plan(plan, chain, evidence, boundary)
    expected = torch.autograd.grad(whole.logsumexp(0), [cores, evidence])
    seen: list[int] = []
    run = plans._run

    def counted(plan: Plan, chain: Grouped, weights: Weights, boundary: Boundary) -> tuple[Tensor, Tensor]:
        seen.append(weights.rows)
        return run(plan, chain, weights, boundary)

    monkeypatch.setattr(plans, "_run", counted)
    set_memory_limit(3 * 8 * 9 * 4 * 4)  # three rows of nine states
    sliced = by_plan(plan, chain, evidence, boundary)
    torch.testing.assert_close(sliced, whole)
    found = torch.autograd.grad(sliced.logsumexp(0), [cores, evidence])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert max(seen) <= rows
    assert sum(seen) == 2 * 20  # forward, and again on the way back


@pytest.mark.usefixtures("limit")
def test_samples_in_slices() -> None:
    """Observed variables come back, whatever the slices."""
    set_memory_limit(1)
    states = torch.randint(3, (7, 5))
    one_hot = torch.nn.functional.one_hot(states, 3).double().log()
    assert torch.equal(sample(torch.rand(5, 3, 2, 2).double(), one_hot, (4,)), states.expand(4, 7, 5))


def test_the_memory_limit_is_checked() -> None:
    with pytest.raises(ValueError, match="at least 1 byte, got 0"):
        set_memory_limit(0)


@pytest.mark.parametrize("kind", KINDS)
def test_marginals_of_some_variables(kind: str) -> None:
    cores, boundary = chain_of(kind, 7)
    sizes = sizes_of(cores)
    full = evidence_for(sizes, (4,))
    for evidence in (full, {1: full[:, 1, : sizes[1]], 5: full[:, 5, : sizes[5]]}, None):
        for own in (True, False):
            every = marginals(cores, evidence, boundary=boundary, own_evidence=own)
            some = marginals(cores, evidence, boundary=boundary, own_evidence=own, variables=[5, 0])
            torch.testing.assert_close(some, every[..., [5, 0], :])
    with pytest.raises(ValueError, match="variables must be positions from 0 to 6, got"):
        marginals(cores, full, boundary=boundary, variables=[7])


def test_evidence_at_several_positions_together() -> None:
    cores, boundary = chain_of("mixed-ring", 7)  # sizes 3, 2, 1, 4, 2, 3, 2
    full = evidence_for(sizes_of(cores), (2, 3))
    apart: dict[int, Tensor] = {k: full[..., k, : len(cores[k])] for k in (0, 1, 4, 6)}
    together = {(6, 1, 4): torch.stack([apart[6], apart[1], apart[4]], -2), 0: apart[0]}
    torch.testing.assert_close(
        log_partition(cores, together, boundary=boundary), log_partition(cores, apart, boundary=boundary)
    )
    torch.testing.assert_close(
        marginals(cores, together, boundary=boundary), marginals(cores, apart, boundary=boundary)
    )


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        ({(0, 1): torch.zeros(2, 3)}, r"positions \(0, 1\) together needs equally many values, not \[3, 2\]"),
        ({(1, 4): torch.zeros(5, 2)}, r"positions \(1, 4\) must have shape \(\*batch, 2, 2\), got \(5, 2\)"),
        ({(1, 1): torch.zeros(2, 2)}, r"positions \(1, 1\) names a position twice"),
        ({(1, 4): torch.zeros(2, 2), 4: torch.zeros(2)}, "position 4 names a position twice"),
        ({(): torch.zeros(0, 2)}, r"positions \(\): positions are 0 to 6"),
    ],
)
def test_wrong_evidence_at_several_positions(evidence: dict[int | tuple[int, ...], Tensor], message: str) -> None:
    cores, boundary = chain_of("mixed-ring", 7)
    with pytest.raises(ValueError, match=message):
        log_partition(cores, evidence, boundary=boundary)


def _weighed(chain: TensorChain, evidence: Tensor) -> Tensor:
    """log Z by enumeration from the cores as they are used."""
    groups = chain.cores.plain.groups
    cores = {k: g[i].double() for ks, g in groups for i, k in enumerate(ks)}
    return log_weights([cores[k] for k in range(len(cores))], chain.boundary, evidence).logsumexp(-1)


@pytest.mark.parametrize("start", ["mixture", "random"])
@pytest.mark.parametrize("closing", [1, 2, 4])
@pytest.mark.parametrize("sizes", [[3], [2, 3], [3, 2, 3, 3]])
def test_closing_rank(sizes: list[int], closing: int, start: str) -> None:
    chain = TensorChain(sizes, 4, closing_rank=closing, start=start).double()  # type: ignore[arg-type]
    evidence = evidence_for(sizes, (5,))
    torch.testing.assert_close(chain.log_partition(evidence), _weighed(chain, evidence))
    count = sum(p.numel() for p in chain.parameters())
    bonds = [closing, *[4] * (len(sizes) - 1), closing]
    assert count == sum(size * bonds[k] * bonds[k + 1] for k, size in enumerate(sizes))
    chain.log_partition(evidence[:1]).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in chain.parameters())
    other = TensorChain(sizes, 4, closing_rank=closing).double()
    other.load_state_dict(chain.state_dict())
    torch.testing.assert_close(other.log_partition(evidence), chain.log_partition(evidence))


@pytest.mark.parametrize("closing", [1, 2, 4])
def test_a_mixture_survives_a_narrow_closing_bond(closing: int) -> None:
    """Without noise the chain is the mixture that was written into it."""
    chain = TensorChain([3, 2, 4], 4, closing_rank=closing).double()
    weights = torch.rand(4).double()
    tables = [torch.rand(4, size).double() for size in chain.sizes]
    chain.set_mixture(weights, tables, noise=0.0)
    p = [t / t.sum(1, keepdim=True) for t in tables]
    joint = torch.einsum("c,ca,cb,cd->abd", weights / weights.sum(), *p)
    one_hot = [torch.eye(size).double().log() for size in chain.sizes]
    evidence = {k: e.view(*(-1 if j == k else 1 for j in range(3)), len(e)) for k, e in enumerate(one_hot)}
    # entries that should be zero are 1e-12
    torch.testing.assert_close(chain.log_partition(evidence).exp(), joint, atol=1e-9, rtol=1e-9)


def test_wrong_closing_ranks() -> None:
    with pytest.raises(ValueError, match="closing_rank must be from 1 to the rank 4, got 5"):
        TensorChain([2, 2], 4, closing_rank=5)
    with pytest.raises(ValueError, match="a train has no closing bond"):
        TensorChain([2, 2], 4, "train", closing_rank=1)


@pytest.mark.parametrize("rank", [1, 4, 40])
@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_autocast_changes_nothing(boundary: Boundary, rank: int) -> None:
    """Networks may be in bfloat16; the chain stays in the dtype of its cores, also where evidence comes in bfloat16."""
    chain = TensorChain([3] * 9, rank, boundary)
    evidence = torch.randn(5, 9, 3).bfloat16().requires_grad_()

    def everything(autocast: bool) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            log_z = chain.log_partition(evidence)
            torch.manual_seed(0)
            others = [chain.marginals(evidence), chain.sample(evidence, (3,)), chain.mode(evidence)[1]]
        # as everywhere with autocast, the backward pass is not in its scope
        return [log_z, *torch.autograd.grad(log_z.sum(), [evidence, *chain.parameters()]), *others]

    found, expected = everything(True), everything(False)
    assert found[0].dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_compiled_without_a_break(boundary: Boundary) -> None:
    """One graph, for the value and its derivatives, and for samples with and without evidence."""
    chain = TensorChain([3] * 9 + [2], 4, boundary)
    evidence = {tuple(range(9)): torch.randn(5, 9, 3, requires_grad=True)}
    (values,) = evidence.values()

    def log_z(values: Tensor) -> Tensor:
        return chain.log_partition({tuple(range(9)): values})

    compiled = torch.compile(log_z, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(values), log_z(values))
    parameters = [values, *chain.parameters()]
    found = torch.autograd.grad(compiled(values).sum(), parameters)
    for one, other in zip(found, torch.autograd.grad(log_z(values).sum(), parameters), strict=True):
        torch.testing.assert_close(one, other)
    drawn = torch.compile(lambda: chain.sample(None, (50,)), fullgraph=True, backend="aot_eager")()
    assert drawn.shape == (50, 10)
    label = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
    given = torch.compile(lambda e: chain.sample({9: e}, (50,)), fullgraph=True, backend="aot_eager")(label)
    assert torch.equal(given[..., 9], torch.arange(2).expand(50, 2))
