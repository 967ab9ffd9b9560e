"""Samples against the enumerated distribution, by chi-square over all states.

Every chi-square test fails with probability 1e-6 if the sampler is right and the seed is changed; with the seed fixed
it always gives the same answer. ``test_chi_square_notices_an_error`` shows what the test can see.
"""

from collections.abc import Sequence

import pytest
import torch
from tn_core_oracle import KINDS, chain_of, evidence_for, log_weights, sizes_of, states_of
from torch import Tensor

from tn_core import log_partition, sample
from tn_core.chain import Boundary
from tn_core.sampling import draw

ERROR_RATE = 1e-6
DRAWS = 40_000


def index_of(states: Tensor, sizes: Sequence[int]) -> Tensor:
    """The place of states in lexicographic order."""
    index = torch.zeros(states.shape[:-1], dtype=torch.long)
    for k, size in enumerate(sizes):
        index = index * size + states[..., k]
    return index


def p_value(counts: Tensor, log_w: Tensor) -> float:
    """P(chi-square at least as large), cells with fewer than 5 expected draws put together; 0 for impossible draws."""
    expected = log_w.softmax(-1) * counts.sum()
    if counts[log_w == -torch.inf].any():
        return 0.0
    rare = expected < 5
    seen = torch.cat([counts[~rare].double(), counts[rare].sum().double().reshape(1)])
    wanted = torch.cat([expected[~rare], expected[rare].sum().reshape(1)])
    seen, wanted = seen[wanted > 1e-9], wanted[wanted > 1e-9]
    if len(wanted) == 1:
        return 1.0
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(wanted) - 1) / 2).double(), statistic / 2))


def check(states: Tensor, cores: list[Tensor], boundary: Boundary, evidence: Tensor | dict[int, Tensor] | None) -> None:
    """Asserts that samples (draws, *batch, n) have the right distribution in every row of the batch."""
    sizes = sizes_of(cores)
    log_w = log_weights(cores, boundary, evidence)
    index = index_of(states, sizes)
    assert states.min() >= 0
    assert (states < torch.tensor(sizes)).all()
    for row_index, row_weights in zip(
        index.reshape(len(index), -1).unbind(1), log_w.reshape(-1, log_w.shape[-1]).unbind(0), strict=True
    ):
        counts = row_index.bincount(minlength=log_w.shape[-1])
        assert p_value(counts, row_weights) > ERROR_RATE


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("n", range(1, 6))
@pytest.mark.parametrize("kind", KINDS)
def test_distribution_without_evidence(kind: str, n: int, zeros: bool) -> None:
    cores, boundary = chain_of(kind, n, zeros=zeros)
    if log_partition(cores, boundary=boundary) == -torch.inf:  # some random zeros leave no state at all
        cores, boundary = chain_of(kind, n)
    check(sample(cores, None, (DRAWS,), boundary=boundary), cores, boundary, None)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_distribution_with_evidence_that_differs_by_row(kind: str, n: int) -> None:
    cores, boundary = chain_of(kind, n)
    evidence = evidence_for(sizes_of(cores), (2, 2))
    check(sample(cores, evidence, (DRAWS // 2,), boundary=boundary), cores, boundary, evidence)


@pytest.mark.parametrize(
    ("positions", "batches"), [((0,), [(3,)]), ((6,), [(3,)]), ((2, 3), [(), (3,)]), ((5, 0), [(2, 1), (2,)])]
)
@pytest.mark.parametrize("kind", KINDS)
def test_distribution_with_evidence_at_some_positions(
    kind: str, positions: tuple[int, ...], batches: list[tuple[int, ...]]
) -> None:
    cores, boundary = chain_of(kind, 7)
    sizes = sizes_of(cores)
    evidence = {k: evidence_for(sizes, batch)[..., k, : sizes[k]] for k, batch in zip(positions, batches, strict=True)}
    check(sample(cores, evidence, (DRAWS // 2,), boundary=boundary), cores, boundary, evidence)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_and_one_sample_a_row(kind: str) -> None:
    """Each entry of the batch draws for itself: the draws of equal rows are independent."""
    cores, boundary = chain_of(kind, 4, dtype=torch.float32)
    evidence = evidence_for(sizes_of(cores), (), dtype=torch.float32)
    states = sample(cores, evidence.expand(DRAWS, -1, -1), boundary=boundary)
    check(states, [g.double() for g in cores], boundary, evidence.double())


def test_chi_square_notices_an_error() -> None:
    """Samples of a chain with two variables swapped, or with 10 % of another chain mixed in, are refused."""
    cores, boundary = chain_of("ring", 4)
    states, sizes = sample(cores, None, (DRAWS,), boundary=boundary), sizes_of(cores)
    log_w = log_weights(cores, boundary, None)
    assert p_value(index_of(states, sizes).bincount(minlength=81), log_w) > ERROR_RATE
    swapped = states[:, [1, 0, 2, 3]]
    assert p_value(index_of(swapped, sizes).bincount(minlength=81), log_w) < ERROR_RATE
    other, _ = chain_of("ring", 4)
    states[: DRAWS // 10] = sample(other, None, (DRAWS // 10,), boundary=boundary)
    assert p_value(index_of(states, sizes).bincount(minlength=81), log_w) < ERROR_RATE


@pytest.mark.parametrize("batch", [None, (), (3,), (2, 3)])
@pytest.mark.parametrize("sample_shape", [(), (4,), (2, 4), (0,)])
@pytest.mark.parametrize("kind", ["ring", "mixed-train"])
def test_shapes(kind: str, sample_shape: tuple[int, ...], batch: tuple[int, ...] | None) -> None:
    cores, boundary = chain_of(kind, 5)
    evidence = None if batch is None else evidence_for(sizes_of(cores), batch)
    states = sample(cores, evidence, sample_shape, boundary=boundary)
    assert states.shape == (*sample_shape, *(batch or ()), 5)
    assert states.dtype == torch.long


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_samples_of_a_row_stay_in_that_row(boundary: Boundary) -> None:
    """Rows observed to be different states come back where they were, for every sample."""
    states = states_of([2, 2, 2])
    evidence = torch.nn.functional.one_hot(states, 2).double().log().reshape(2, 4, 3, 2)
    drawn = sample(torch.rand(3, 2, 3, 3).double(), evidence, (5, 2), boundary=boundary)
    assert torch.equal(drawn, states.reshape(2, 4, 3).expand(5, 2, 2, 4, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_values_are_never_drawn(kind: str) -> None:
    """Zero cores and ruled-out values, at the first and last place of a variable too."""
    cores, boundary = chain_of(kind, 6)
    for k, g in enumerate(cores):
        if len(g) > 1:
            g[0 if k % 2 else -1] = 0
    sizes = sizes_of(cores)
    evidence = torch.zeros(4, 6, max(sizes), dtype=torch.float64)
    evidence[1, 0, 1:] = evidence[2, 3, :-1] = evidence[3, 5, 0] = -torch.inf
    evidence = torch.where(torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1), evidence, -torch.inf)
    possible = log_weights(cores, boundary, evidence) > -torch.inf
    assert not possible.all()
    states = index_of(sample(cores, evidence, (2_000,), boundary=boundary), sizes)
    for row in possible.any(1).nonzero().flatten().tolist():  # an impossible row has nothing to draw
        assert possible[row, states[:, row]].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draw_never_returns_a_zero_weight(dtype: torch.dtype) -> None:
    weights = torch.rand(200_000, 9, dtype=dtype) ** 20
    weights[torch.rand_like(weights) < 0.6] = 0
    weights = weights[weights.sum(-1) > 0]
    drawn = draw(weights.clone())
    assert drawn.min() >= 0
    assert (weights.gather(-1, drawn.unsqueeze(-1)) > 0).all()
    tiny = weights * 1e-30  # in float32 some become subnormal and some zero
    tiny = tiny[tiny.sum(-1) > 0]
    assert (tiny.gather(-1, draw(tiny.clone()).unsqueeze(-1)) > 0).all()


@pytest.mark.parametrize("level", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("weights", [[0, 1.0, 0], [0, 0.1, 0.2, 0.7, 0, 0], [1e-30, 0], [0, 1e-45], [3e37, 0, 3e37, 0]])
def test_draw_at_the_ends_of_the_unit_interval(
    monkeypatch: pytest.MonkeyPatch, weights: list[float], level: float
) -> None:
    """The smallest and the largest number that ``torch.rand`` can return."""
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, level))
    w = torch.tensor(weights)
    index = draw(w.clone())
    assert w[index] > 0
    assert index == (w.nonzero()[0] if level == 0 else w.nonzero()[-1])


@pytest.mark.parametrize("weights", [[1.0, 2.0, 3.0, 4.0], [0.0, 5.0, 0.0, 0.5, 1e-3]])
def test_draw_has_the_right_frequencies(weights: list[float]) -> None:
    w = torch.tensor(weights)
    counts = draw(w.repeat(DRAWS, 1)).bincount(minlength=len(weights))
    assert p_value(counts, w.double().log()) > ERROR_RATE


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_samples(kind: str) -> None:
    cores, boundary = chain_of(kind, 5)
    evidence = evidence_for(sizes_of(cores), (3,))

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return sample(cores, evidence.clamp_min(-3), (50,), boundary=boundary)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_no_gradients_are_recorded() -> None:
    cores = torch.rand(3, 2, 2, 2, requires_grad=True)
    evidence = torch.zeros(2, 3, 2, requires_grad=True)
    before = evidence.detach().clone()
    assert not sample(cores, evidence, (5,)).requires_grad
    assert torch.equal(evidence.detach(), before)
    with torch.inference_mode():
        assert sample(cores, evidence, (5,)).shape == (5, 2, 3)


@pytest.mark.parametrize("boundary", ["ring", "train"])
def test_a_long_chain_in_float32(boundary: Boundary) -> None:
    """2,000 variables: the samples of a mixture of two products are one product or the other, half of them each.

    Value 0 has probability 0.9 in one component and 0.1 in the other, so a sample's mean tells which one it was; a
    share of 0.5 +- 0.1 of 1,000 samples is more than six standard deviations wide (error rate below 1e-9).
    """
    table = torch.tensor([[0.9, 0.1], [0.1, 0.9]])  # component, value
    cores = torch.diag_embed(table.T).expand(2_000, -1, -1, -1)
    states = sample(cores, None, (1_000,), boundary=boundary).float().mean(1)
    assert ((states - 0.1).abs().minimum((states - 0.9).abs()) < 0.06).all()
    assert abs((states < 0.5).float().mean() - 0.5) < 0.1


def test_errors_are_those_of_the_chain() -> None:
    with pytest.raises(ValueError, match="boundary must be 'ring' or 'train'"):
        sample(torch.ones(3, 2, 4, 4), boundary="loop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="log_evidence must have shape"):
        sample(torch.ones(3, 2, 4, 4), torch.zeros(3, 3))
