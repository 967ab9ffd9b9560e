"""Partition function, marginals and modes against the enumeration of every state, and at the edges of the dtypes."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from tn_core_oracle import KINDS, chain_of, dense, evidence_for, log_weights, posterior, sizes_of, states_of
from torch import Tensor

from tn_core import log_partition, marginals, mode
from tn_core.chain import Boundary, group, log_probability

LENGTHS = range(1, 8)


def close(found: Tensor, expected: Tensor) -> None:
    """Asserts that two float64 results are the same but for rounding."""
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def mapping_for(sizes: Sequence[int], positions: Sequence[int], batches: Sequence[Sequence[int]]) -> dict[int, Tensor]:
    """Evidence at some positions, each with its own batch shape."""
    return {
        k: evidence_for(sizes, batch)[..., k, : sizes[k]].clone() for k, batch in zip(positions, batches, strict=True)
    }


def as_given(cores: list[Tensor], kind: str) -> Tensor | list[Tensor]:
    """One tensor where the cores are equal, the list where they are not."""
    return torch.stack(cores) if kind in ("ring", "train") else cores


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("batch", [None, (), (5,), (2, 3)])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_dense_evidence_against_enumeration(kind: str, n: int, batch: tuple[int, ...] | None, zeros: bool) -> None:
    cores, boundary = chain_of(kind, n, zeros=zeros)
    sizes = sizes_of(cores)
    evidence = None if batch is None else evidence_for(sizes, batch)
    given = as_given(cores, kind)
    log_w = log_weights(cores, boundary, evidence)
    assert log_w.shape == (*(batch or ()), math.prod(sizes))
    close(log_partition(given, evidence, boundary=boundary), log_w.logsumexp(-1))
    close(marginals(given, evidence, boundary=boundary), posterior(cores, boundary, evidence, True))


@pytest.mark.parametrize("batch", [None, (), (5,), (2, 3)])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_marginals_without_own_evidence(kind: str, n: int, batch: tuple[int, ...] | None) -> None:
    cores, boundary = chain_of(kind, n)
    evidence = None if batch is None else evidence_for(sizes_of(cores), batch)
    found = marginals(as_given(cores, kind), evidence, boundary=boundary, own_evidence=False)
    close(found, posterior(cores, boundary, evidence, False))


@pytest.mark.parametrize("own_evidence", [True, False])
@pytest.mark.parametrize(
    ("positions", "batches"),
    [
        ((0,), [()]),
        ((6,), [(4,)]),
        ((2, 3), [(), (4,)]),
        ((5, 0), [(2, 1), (3,)]),
        ((1, 3, 4, 6), [(3,), (), (2, 3), (1, 1)]),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_mapping_evidence_against_enumeration(
    kind: str, positions: tuple[int, ...], batches: list[tuple[int, ...]], own_evidence: bool
) -> None:
    cores, boundary = chain_of(kind, 7)
    evidence = mapping_for(sizes_of(cores), positions, batches)
    given = as_given(cores, kind)
    batch = torch.broadcast_shapes(*batches)  # type: ignore[no-untyped-call]
    log_z = log_partition(given, evidence, boundary=boundary)
    assert log_z.shape == batch
    close(log_z, log_weights(cores, boundary, evidence).logsumexp(-1))
    found = marginals(given, evidence, boundary=boundary, own_evidence=own_evidence)
    assert found.shape == (*batch, 7, max(sizes_of(cores)))
    close(found, posterior(cores, boundary, evidence, own_evidence))


@pytest.mark.parametrize("n", [1, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mapping_of_all_positions_is_the_dense_tensor(kind: str, n: int) -> None:
    cores, boundary = chain_of(kind, n)
    sizes = sizes_of(cores)
    evidence = evidence_for(sizes, (2, 3))
    # from the last position to the first, so that the order of the mapping cannot matter
    every = {k: evidence[..., k, : sizes[k]] for k in reversed(range(n))}
    close(log_partition(cores, every, boundary=boundary), log_partition(cores, evidence, boundary=boundary))
    close(marginals(cores, every, boundary=boundary), marginals(cores, evidence, boundary=boundary))
    for one, other in zip(mode(cores, every, boundary=boundary), mode(cores, evidence, boundary=boundary), strict=True):
        close(one, other)


@pytest.mark.parametrize("batch", [(), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probability_against_enumeration(kind: str, batch: tuple[int, ...]) -> None:
    cores, boundary = chain_of(kind, 5)
    sizes = sizes_of(cores)
    full = evidence_for(sizes, batch)
    some = {k: full[..., k, : sizes[k]] for k in (1, 4)}
    nothing = log_weights(cores, boundary, None).logsumexp(-1)
    for evidence in (full, some):
        found = log_probability(cores, evidence, boundary=boundary)
        close(found, log_weights(cores, boundary, evidence).logsumexp(-1) - nothing)
    close(log_probability(cores, boundary=boundary), torch.zeros_like(nothing))


@pytest.mark.parametrize("kind", KINDS)
def test_no_evidence_in_all_its_forms(kind: str) -> None:
    cores, boundary = chain_of(kind, 5)
    sizes = sizes_of(cores)
    plain = log_partition(cores, boundary=boundary)
    assert plain.shape == ()
    close(log_partition(cores, {}, boundary=boundary), plain)
    close(log_partition(cores, dense(sizes, None), boundary=boundary), plain)
    close(marginals(cores, {}, boundary=boundary), marginals(cores, boundary=boundary))


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_empty_batch(boundary: Boundary) -> None:
    cores = torch.rand(3, 2, 2, 2)
    evidence = torch.zeros(0, 3, 2)
    assert log_partition(cores, evidence, boundary=boundary).shape == (0,)
    assert marginals(cores, evidence, boundary=boundary).shape == (0, 3, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_and_its_slices_are_the_same_chain(kind: str) -> None:
    cores, boundary = chain_of("ring" if kind.endswith("ring") else "train", 4)
    evidence = evidence_for(sizes_of(cores), (3,))
    close(
        log_partition(torch.stack(cores), evidence, boundary=boundary),
        log_partition(cores, evidence, boundary=boundary),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_wider_bonds_of_zeros_change_nothing(kind: str) -> None:
    cores, boundary = chain_of(kind, 4)
    wide = [torch.nn.functional.pad(g, (0, 5 - g.shape[2], 0, 5 - g.shape[1])) for g in cores]
    close(log_partition(wide, boundary=boundary), log_partition(cores, boundary=boundary))


def impossible(kind: str) -> tuple[list[Tensor], Boundary, Tensor]:
    """A chain and three rows of evidence, of which the middle one rules out every state."""
    cores, boundary = chain_of(kind, 5)
    evidence = evidence_for(sizes_of(cores), (3,))
    evidence[1, 3] = -torch.inf
    return cores, boundary, evidence


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_evidence(kind: str) -> None:
    cores, boundary, evidence = impossible(kind)
    cores = [g.requires_grad_() for g in cores]
    evidence.requires_grad_()
    log_z = log_partition(cores, evidence, boundary=boundary)
    assert log_z[1] == -torch.inf
    assert log_z[[0, 2]].isfinite().all()
    gradients = torch.autograd.grad(log_z[1], [evidence, *cores], retain_graph=True)
    assert all((g == 0).all() for g in gradients)  # NaN is not 0
    # the impossible row spoils nothing for the others
    together = torch.autograd.grad(log_z.sum(), [evidence, *cores])
    alone = torch.autograd.grad(log_partition(cores, evidence[[0, 2]], boundary=boundary).sum(), [evidence, *cores])
    for one, other in zip(together, alone, strict=True):
        close(one, other)
    assert (marginals(cores, evidence, boundary=boundary)[1] == 0).all()
    _, log_weight = mode(cores, evidence, boundary=boundary)
    assert log_weight[1] == -torch.inf
    assert log_weight[[0, 2]].isfinite().all()


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_impossible_by_the_cores_alone(boundary: Boundary) -> None:
    """Each value is allowed and each core is not zero, but no path leads through."""
    cores = torch.zeros(3, 2, 2, 2, dtype=torch.float64)
    cores[0, 0, 0, 0] = cores[1, 0, 1, 1] = cores[2, 0, 0, 0] = 1
    cores.requires_grad_()
    log_z = log_partition(cores, boundary=boundary)
    assert log_z == -torch.inf
    assert (torch.autograd.grad(log_z, cores)[0] == 0).all()


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_own_evidence_left_out_even_if_it_contradicts_the_others(boundary: Boundary) -> None:
    """p(s_1 | s_0 = 0) exists although s_1 was observed to be what it cannot be."""
    same = torch.eye(2, dtype=torch.float64)
    cores = [torch.einsum("sa,ab->sab", same, same)] * 2  # s_0 = s_1 always
    contradiction = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]], dtype=torch.float64)
    found = marginals(cores, contradiction, boundary=boundary, own_evidence=False)
    close(found, posterior(cores, boundary, contradiction, False))


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_nan_is_not_taken_for_impossible(boundary: Boundary) -> None:
    """A network that has diverged must not look like evidence that rules everything out."""
    good, bad = torch.rand(3, 2, 2, 2), torch.rand(3, 2, 2, 2)
    bad[1, 0, 0, 0] = torch.nan
    assert log_partition(bad, boundary=boundary).isnan()
    evidence = torch.zeros(2, 3, 2)
    evidence[1, 1, 0] = torch.nan
    log_z = log_partition(good, evidence, boundary=boundary)
    assert log_z[0].isfinite()
    assert log_z[1].isnan()


def soft_evidence(sizes: Sequence[int], batch: Sequence[int]) -> Tensor:
    """Evidence with a value ruled out in each row, the rest soft."""
    evidence = torch.randn(*batch, len(sizes), max(sizes), dtype=torch.float64)
    evidence[..., 0, 0] = -torch.inf
    exists = torch.arange(max(sizes)) < torch.tensor(list(sizes)).unsqueeze(1)
    return torch.where(exists, evidence, -torch.inf)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_log_partition(kind: str, n: int) -> None:
    cores, boundary = chain_of(kind, n)
    inputs = [g.requires_grad_() for g in cores]
    evidence = soft_evidence(sizes_of(cores), (2,)).requires_grad_()
    given = (lambda cs: torch.stack(cs)) if kind in ("ring", "train") else list

    def log_z(e: Tensor, *cs: Tensor) -> Tensor:
        return log_partition(given(cs), e, boundary=boundary)

    assert torch.autograd.gradcheck(log_z, (evidence, *inputs))
    assert torch.autograd.gradcheck(lambda *cs: log_partition(given(cs), boundary=boundary), tuple(inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_of_log_partition(kind: str) -> None:
    cores, boundary = chain_of(kind, 3)
    evidence = soft_evidence(sizes_of(cores), (2,)).requires_grad_()

    def log_z(e: Tensor, *cs: Tensor) -> Tensor:
        return log_partition(cs, e, boundary=boundary)

    assert torch.autograd.gradgradcheck(log_z, (evidence, *(g.requires_grad_() for g in cores)))


@pytest.mark.parametrize("own_evidence", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_marginals(kind: str, own_evidence: bool) -> None:
    cores, boundary = chain_of(kind, 3)
    sizes = sizes_of(cores)
    evidence = soft_evidence(sizes, (2,)).requires_grad_()
    inputs = [g.requires_grad_() for g in cores]

    def posteriors(e: Tensor, *cs: Tensor) -> Tensor:
        return marginals(cs, e, boundary=boundary, own_evidence=own_evidence)

    def some(e: Tensor, *cs: Tensor) -> Tensor:
        return marginals(cs, {1: e}, boundary=boundary, own_evidence=own_evidence)

    assert torch.autograd.gradcheck(posteriors, (evidence, *inputs))
    one = torch.randn(2, sizes[1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(some, (one, *inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_marginals_are_the_gradient_of_log_partition(kind: str) -> None:
    cores, boundary = chain_of(kind, 6)
    evidence = evidence_for(sizes_of(cores), (4,)).requires_grad_()
    gradient = torch.autograd.grad(log_partition(cores, evidence, boundary=boundary).sum(), evidence)[0]
    close(marginals(cores, evidence, boundary=boundary), gradient)


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_marginals_ask_for_gradients_only_where_they_can_flow(boundary: Boundary) -> None:
    cores, evidence = torch.rand(3, 2, 2, 2), torch.zeros(4, 3, 2)
    before = evidence.clone()
    assert not marginals(cores, evidence, boundary=boundary).requires_grad
    cores.requires_grad_()
    assert marginals(cores, evidence, boundary=boundary).requires_grad
    with torch.no_grad():
        assert not marginals(cores, evidence, boundary=boundary).requires_grad
    assert not evidence.requires_grad
    assert torch.equal(evidence, before)
    assert cores.grad is None


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_everything_works_in_inference_mode(boundary: Boundary) -> None:
    """Trainers validate in inference mode, where no backward pass can be recorded on the tensors they hand over."""
    cores = torch.rand(3, 2, 2, 2, requires_grad=True)
    outside = torch.randn(4, 3, 2)
    expected = marginals(cores, outside, boundary=boundary).detach()
    log_z = log_partition(cores, outside, boundary=boundary).detach()
    with torch.inference_mode():
        inside = outside.clone()
        torch.testing.assert_close(log_partition(cores, inside, boundary=boundary), log_z)
        torch.testing.assert_close(marginals(cores, inside, boundary=boundary), expected)
        assert mode(cores, inside, boundary=boundary)[0].shape == (4, 3)


def best_by_enumeration(
    cores: list[Tensor], boundary: Boundary, evidence: Tensor | dict[int, Tensor] | None, variables: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Assignments (assignments, variables) of some variables and their log weights (*batch, assignments)."""
    sizes = sizes_of(cores)
    states, log_w = states_of(sizes), log_weights(cores, boundary, evidence)
    assignments = states_of([sizes[k] for k in variables]) if variables else torch.zeros(1, 0, dtype=torch.long)
    columns = [
        log_w[..., (states[:, list(variables)] == assignment).all(-1)].logsumexp(-1) for assignment in assignments
    ]
    return assignments, torch.stack(columns, -1)


def weight_of(states: Tensor, variables: Sequence[int], assignments: Tensor, log_w: Tensor) -> Tensor:
    """The enumerated log weight of the assignments that were returned."""
    which = (states[..., list(variables)].unsqueeze(-2) == assignments).all(-1).long().argmax(-1, keepdim=True)
    return log_w.gather(-1, which).squeeze(-1)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("batch", [None, (), (5,), (2, 3)])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_mode_is_exact_with_a_wide_beam(kind: str, n: int, batch: tuple[int, ...] | None, zeros: bool) -> None:
    cores, boundary = chain_of(kind, n, zeros=zeros)
    sizes = sizes_of(cores)
    evidence = None if batch is None else evidence_for(sizes, batch)
    states, log_weight = mode(as_given(cores, kind), evidence, boundary=boundary, beam=math.prod(sizes))
    assert states.shape == (*(batch or ()), n)
    assert states.dtype == torch.long
    assignments, log_w = best_by_enumeration(cores, boundary, evidence, range(n))
    close(log_weight, log_w.amax(-1))
    close(weight_of(states, range(n), assignments, log_w), log_weight)


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_exact_for_any_beam(kind: str, beam: int) -> None:
    cores, boundary = chain_of(kind, 7)
    evidence = evidence_for(sizes_of(cores), (20,))
    states, log_weight = mode(cores, evidence, boundary=boundary, beam=beam)
    assignments, log_w = best_by_enumeration(cores, boundary, evidence, range(7))
    close(weight_of(states, range(7), assignments, log_w), log_weight)
    assert (log_weight <= log_w.amax(-1) + 1e-10).all()


@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_are_scored_by_their_exact_marginals(kind: str) -> None:
    """A beam of one takes, variable by variable, the likeliest value given those before it."""
    cores, boundary = chain_of(kind, 7)
    sizes = sizes_of(cores)
    evidence = evidence_for(sizes, (20,))
    states, log_w = states_of(sizes), log_weights(cores, boundary, evidence)
    found, _ = mode(cores, evidence, boundary=boundary, beam=1)
    for row in range(20):
        kept = torch.ones(len(states), dtype=torch.bool)
        for k, size in enumerate(sizes):
            scores = [log_w[row, kept & (states[:, k] == s)].logsumexp(0) for s in range(size)]
            value = int(torch.stack(scores).argmax())
            assert found[row, k] == value
            kept &= states[:, k] == value


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_a_wider_beam_can_find_more(boundary: Boundary) -> None:
    """Beam 1 takes the likelier first value, 0.6 to 0.4; the best state has the other, 0.4 to 0.3."""
    joint = torch.tensor([[0.3, 0.3], [0.4, 0.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    # the bond in the middle carries the first value, the outer bond has one value and so closes the ring too
    first = torch.einsum("s,sb->sb", torch.ones(2, dtype=torch.float64), eye).unsqueeze(1)
    cores = [first, joint.T.unsqueeze(2)]
    narrow, narrow_weight = mode(cores, boundary=boundary, beam=1)
    wide, wide_weight = mode(cores, boundary=boundary, beam=2)
    assert narrow[0] == 0
    assert wide.tolist() == [1, 0]
    assert narrow_weight.exp() == pytest.approx(0.3)
    assert wide_weight.exp() == pytest.approx(0.4)


@pytest.mark.parametrize("variables", [(), (0,), (6,), (1, 4), (5, 3, 0), (2,), range(7)])
@pytest.mark.parametrize("kind", KINDS)
def test_mode_of_some_variables_sums_the_others_out(kind: str, variables: Sequence[int]) -> None:
    cores, boundary = chain_of(kind, 7)
    sizes = sizes_of(cores)
    for evidence in (evidence_for(sizes, (2, 3)), mapping_for(sizes, (1, 3), [(2, 1), (3,)])):
        states, log_weight = mode(cores, evidence, boundary=boundary, beam=300, variables=variables)
        assignments, log_w = best_by_enumeration(cores, boundary, evidence, sorted(variables))
        close(log_weight, log_w.amax(-1))
        close(weight_of(states, sorted(variables), assignments, log_w), log_weight)
        others = [k for k in range(7) if k not in variables]
        assert (states[..., others] == -1).all()
        assert (states[..., list(variables)] >= 0).all()


def by_steps(cores: Tensor, evidence: Tensor, boundary: Boundary) -> Tensor:
    """log Z (rows,) by the forward recursion in logarithms, a step a variable: slow, but cannot underflow."""
    n, _, m, _ = cores.shape
    opening = torch.eye(m, dtype=cores.dtype) if boundary == "ring" else torch.ones(1, m, dtype=cores.dtype)
    log_v = opening.log().expand(len(evidence), -1, -1)  # shape: (rows, starts, m)
    for k in range(n):
        log_a = (evidence[:, k, :, None, None] + cores[k].log()).logsumexp(1)
        log_v = (log_v.unsqueeze(-1) + log_a.unsqueeze(1)).logsumexp(2)
    return log_v.diagonal(dim1=1, dim2=2).logsumexp(1) if boundary == "ring" else log_v.logsumexp((1, 2))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_two_thousand_variables_in_float32(boundary: Boundary, scale: float) -> None:
    """Observations 40 standard deviations from every component: weights of e^-800 a variable, e^-1,600,000 in all."""
    n, values, m, rows = 2_000, 5, 4, 3
    cores = (scale * torch.rand(n, values, m, m)).requires_grad_()
    means = torch.randn(n, values)
    z = means.amax(1) + 40 + torch.rand(rows, n)
    evidence = -0.5 * (z.unsqueeze(-1) - means) ** 2 - 0.5 * math.log(2 * math.pi)
    evidence.requires_grad_()
    log_z = log_partition(cores, evidence, boundary=boundary)
    found = torch.autograd.grad(log_z.sum(), [evidence, cores])
    posteriors = marginals(cores, evidence, boundary=boundary)
    assert log_z.isfinite().all()
    assert all(g.isfinite().all() for g in found)
    assert posteriors.isfinite().all()

    exact_cores = cores.detach().double().requires_grad_()
    exact_evidence = evidence.detach().double().requires_grad_()
    exact = log_partition(exact_cores, exact_evidence, boundary=boundary)
    torch.testing.assert_close(exact, by_steps(exact_cores, exact_evidence, boundary), rtol=1e-12, atol=0)
    expected = torch.autograd.grad(exact.sum(), [exact_evidence, exact_cores])
    # the sum of 2,000 float32 numbers near 10^3: a few roundings of 6e-8 in relative terms
    torch.testing.assert_close(log_z.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(posteriors.double(), expected[0], rtol=1e-3, atol=1e-4)
    # the gradient of a core times the core is an expected count, of order one whatever the scale
    torch.testing.assert_close((found[1] * cores).double(), expected[1] * exact_cores, rtol=1e-3, atol=1e-4)
    states, log_weight = mode(cores.detach(), evidence.detach(), boundary=boundary, beam=2)
    chosen = dict(enumerate(torch.nn.functional.one_hot(states, values).double().log().unbind(1)))
    of_states = log_partition(
        exact_cores, torch.stack([chosen[k] for k in range(n)], 1) + exact_evidence, boundary=boundary
    )
    torch.testing.assert_close(log_weight.double(), of_states, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", ["none", "dense", "mapping"])
@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_are_kept(kind: str, form: str, dtype: torch.dtype) -> None:
    cores, boundary = chain_of(kind, 4, dtype=dtype)
    full = evidence_for(sizes_of(cores), (2,), dtype=dtype)
    evidence = {"none": None, "dense": full, "mapping": {1: full[:, 1, : len(cores[1])]}}[form]
    assert log_partition(cores, evidence, boundary=boundary).dtype == dtype
    assert marginals(cores, evidence, boundary=boundary).dtype == dtype
    states, log_weight = mode(cores, evidence, boundary=boundary)
    assert (states.dtype, log_weight.dtype) == (torch.long, dtype)


def test_inputs_are_not_changed() -> None:
    cores, boundary = chain_of("mixed-ring", 5)
    evidence = evidence_for(sizes_of(cores), (3,))
    copies = [g.clone() for g in cores], evidence.clone()
    log_partition(cores, evidence, boundary=boundary)
    marginals(cores, evidence, boundary=boundary)
    mode(cores, evidence, boundary=boundary)
    assert all(torch.equal(g, copy) for g, copy in zip(cores, copies[0], strict=True))
    assert torch.equal(evidence, copies[1])


def test_grouped_cores_are_the_cores() -> None:
    cores, boundary = chain_of("mixed-train", 6)
    chain = group(cores, boundary)
    assert chain.sizes == tuple(sizes_of(cores))
    assert group(chain, boundary) is chain
    close(log_partition(chain, boundary=boundary), log_partition(cores, boundary=boundary))


UNIFORM = torch.ones(3, 2, 4, 4)
MIXED = [torch.ones(2, 3, 4), torch.ones(5, 4, 3)]


@pytest.mark.parametrize("function", [log_partition, marginals, mode])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(UNIFORM, boundary="loop"), "boundary must be 'ring' or 'train', got 'loop'"),
        (lambda f: f(torch.ones(3, 2, 4)), r"cores must have shape \(n, N, m, m\), none of them 0; got \(3, 2, 4\)"),
        (lambda f: f(torch.ones(3, 2, 4, 5)), r"cores must have shape .* got \(3, 2, 4, 5\)"),
        (lambda f: f(torch.ones(0, 2, 4, 4)), r"cores must have shape .* got \(0, 2, 4, 4\)"),
        (lambda f: f([]), "a chain needs at least one core"),
        (lambda f: f([torch.ones(2, 2)]), r"core 0 must have shape \(N, m_left, m_right\).* got \(2, 2\)"),
        (lambda f: f([MIXED[0], torch.ones(0, 4, 3)]), r"core 1 must have shape .* got \(0, 4, 3\)"),
        (
            lambda f: f([torch.ones(2, 3, 4), torch.ones(2, 5, 3)]),
            "core 1 has left bond 5, core 0 has right bond 4",
        ),
        (
            lambda f: f([torch.ones(2, 3, 4), torch.ones(2, 4, 2)]),
            "a ring must close: its first bond is 3, its last is 2",
        ),
        (
            lambda f: f(UNIFORM, torch.zeros(7, 3, 3)),
            r"log_evidence must have shape \(\*batch, 3, 2\) for this chain, got \(7, 3, 3\)",
        ),
        (lambda f: f(UNIFORM, torch.zeros(2)), r"log_evidence must have shape \(\*batch, 3, 2\).* got \(2,\)"),
        (
            lambda f: f(MIXED, {1: torch.zeros(7, 4)}),
            r"evidence at position 1 must have shape \(\*batch, 5\), got \(7, 4\)",
        ),
        (
            lambda f: f(MIXED, {2: torch.zeros(5)}),
            r"evidence at position 2: positions are 0 to 1",
        ),
        (lambda f: f(MIXED, {-1: torch.zeros(5)}), r"evidence at position -1: positions are 0 to 1"),
        (lambda f: f(MIXED, {0: torch.zeros(())}), r"evidence at position 0 must have shape \(\*batch, 2\), got \(\)"),
    ],
)
def test_errors_say_what_is_wrong(function: Callable[..., object], call: Callable[..., object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(function)


@pytest.mark.parametrize("function", [log_partition, marginals, mode])
def test_batches_that_do_not_broadcast_are_a_value_error(function: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"\(3,\)|\(4,\)|batch"):
        function(UNIFORM, {0: torch.zeros(3, 2), 1: torch.zeros(4, 2)})


def test_an_open_train_need_not_close() -> None:
    cores = [torch.ones(2, 3, 4), torch.ones(2, 4, 2)]
    assert log_partition(cores, boundary="train").exp().item() == pytest.approx(2 * 2 * 3 * 4 * 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam": 0}, "beam must be at least 1, got 0"),
        ({"variables": [3]}, r"variables must be positions from 0 to 2, got \[3\]"),
        ({"variables": [-1, 1]}, r"variables must be positions from 0 to 2, got \[-1, 1\]"),
    ],
)
def test_errors_of_mode(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mode(UNIFORM, **arguments)  # type: ignore[arg-type]
