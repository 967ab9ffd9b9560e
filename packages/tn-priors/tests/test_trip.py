"""TRIP and TTLP against the enumeration of every state; samples, errors, edges, the order of the variables."""

import math
from itertools import pairwise

import pytest
import torch
from trip_oracle import Dense, shake

from tn_core.protocols import Interval
from tn_priors import TRIP, TTLP, Categorical, ChainMixture, Continuous

EXACT = {"rtol": 1e-10, "atol": 1e-10}
LABELS = [[], [3], [Categorical(2), 4], [Continuous(3, -1.0, 1.0)], [2, Continuous(2), 3]]
both = pytest.mark.parametrize("boundary", ["ring", "train"])
kinds = pytest.mark.parametrize("labels", LABELS, ids=str)


def make(boundary, labels=(), features=3, components=3, rank=4, seed=0, **more):
    torch.manual_seed(seed)
    return shake(TRIP(features, components, rank, labels, boundary, **more))


def known(prior, rows=4):
    """Rows of labels, one in three unknown; and for each row what the oracle takes: weights of the values or None."""
    columns, weights = [], []
    for j, label in enumerate(prior.labels):
        hidden = torch.rand(rows) < 1 / 3
        if isinstance(label, Categorical):
            value = torch.randint(label.size, (rows,)).double()
            columns.append(value.masked_fill(hidden, -1))
            likelihood = torch.nn.functional.one_hot(value.long(), label.size).double()
        else:
            value = torch.randn(rows, dtype=torch.float64)
            columns.append(value.masked_fill(hidden, torch.nan))
            normal = torch.distributions.Normal(*prior.label_components(j))
            likelihood = normal.log_prob(value.unsqueeze(1)).exp().detach()
        weights.append([None if h else w for h, w in zip(hidden, likelihood, strict=True)])
    y = torch.stack(columns, 1) if columns else None
    if y is not None and all(isinstance(label, Categorical) for label in prior.labels):
        y = y.long()
    return y, list(zip(*weights, strict=True)) if columns else [()] * rows


def rows_of(function, z, weights):
    return torch.stack([function(z[i], weights[i]) for i in range(len(z))])


@both
@kinds
def test_densities_are_those_of_the_enumeration(boundary, labels):
    prior = make(boundary, labels)
    dense = Dense(prior)
    y, weights = known(prior)
    z = 3 * torch.randn(4, 3).double()
    joint = rows_of(lambda z, w: dense.weigh(z, w).sum().log(), z, weights)
    alone = rows_of(lambda z, w: dense.weigh(None, w).sum().log(), z, weights)
    torch.testing.assert_close(prior.log_prob_joint(z, y), joint, **EXACT)
    torch.testing.assert_close(prior.log_prob_labels(y).expand(4), alone, **EXACT)
    torch.testing.assert_close(prior(y).log_prob(z), joint - alone, **EXACT)
    unconditional = rows_of(lambda z, _: dense.weigh(z).sum().log(), z, weights)
    torch.testing.assert_close(prior().log_prob(z), unconditional, **EXACT)


@both
@kinds
def test_posteriors_and_moments_are_those_of_the_enumeration(boundary, labels):
    prior = make(boundary, labels)
    dense = Dense(prior)
    y, weights = known(prior)
    z = 3 * torch.randn(4, 3).double()
    q = prior(y)
    found = q.component_posterior(z)
    expected = rows_of(lambda z, w: torch.stack([dense.posterior(dense.weigh(z, w), k) for k in range(3)]), z, weights)
    torch.testing.assert_close(found, expected, **EXACT)
    moments = [dense.moments(dense.weigh(None, w)) for w in weights]
    torch.testing.assert_close(q.mean.expand(4, 3), torch.stack([m for m, _ in moments]), **EXACT)
    torch.testing.assert_close(q.variance.expand(4, 3), torch.stack([v for _, v in moments]), **EXACT)
    covariances = [dense.covariance(dense.weigh(None, w)) for w in weights]
    torch.testing.assert_close(q.covariance.expand(4, 3, 3), torch.stack(covariances), **EXACT)
    below = rows_of(lambda z, w: dense.marginal_cdf(dense.weigh(None, w), z), z, weights)
    torch.testing.assert_close(q.marginal_cdf(z), below, **EXACT)
    for j in range(len(prior.labels)):

        def others(z, w, j=j):
            return dense.posterior(dense.weigh(z, [None if i == j else x for i, x in enumerate(w)]), dense.d + j)

        torch.testing.assert_close(prior.label_posteriors(z, y)[j], rows_of(others, z, weights), **EXACT)


@both
@kinds
def test_marginals_and_conditionals_are_those_of_the_enumeration(boundary, labels):
    prior = make(boundary, labels)
    dense = Dense(prior)
    y, weights = known(prior)
    z = 3 * torch.randn(4, 3).double()
    unknown = torch.tensor(torch.nan).double()

    def joint(keep):
        return rows_of(lambda z, w: dense.weigh(torch.where(torch.tensor(keep), z, unknown), w).sum().log(), z, weights)

    nothing = joint([False, False, False])
    marginal = prior(y).marginal([2, 0])
    assert marginal.event_shape == (2,)
    assert marginal.batch_shape == prior(y).batch_shape
    torch.testing.assert_close(marginal.log_prob(z[:, [2, 0]]), joint([True, False, True]) - nothing, **EXACT)
    values = torch.where(torch.tensor([False, True, False]), z, unknown)  # entries not given are not looked at
    conditional = prior(y).condition(values, torch.tensor([False, True, False]))
    assert conditional.event_shape == (2,)
    assert conditional.batch_shape == (4,)
    expected = joint([True, True, True]) - joint([False, True, False])
    torch.testing.assert_close(conditional.log_prob(z[:, [0, 2]]), expected, **EXACT)
    # a marginal of a conditional: dimension 2 given dimension 1
    expected = joint([False, True, True]) - joint([False, True, False])
    torch.testing.assert_close(conditional.marginal([1]).log_prob(z[:, 2:]), expected, **EXACT)


@both
def test_labels_may_be_sets_or_soft(boundary):
    prior = make(boundary, [3, 4, Continuous(2)])
    dense = Dense(prior)
    z = torch.randn(2, 3).double()
    value = torch.tensor([2, -1])
    allowed = torch.tensor([[True, True, False, False], [False, True, True, True]])
    y = [value, allowed, None]
    weights = [[torch.tensor([0.0, 0, 1]), allowed[0], None], [None, allowed[1], None]]
    expected = rows_of(lambda z, w: dense.weigh(z, w).sum().log(), z, weights)
    torch.testing.assert_close(prior.log_prob_joint(z, y), expected, **EXACT)

    soft = torch.randn(2, 4).double()
    real = torch.tensor([0.3, torch.nan]).double()
    normal = torch.distributions.Normal(*prior.label_components(2))
    weights = [[weights[0][0], soft[0].exp(), normal.log_prob(real[0]).exp().detach()], [None, soft[1].exp(), None]]
    expected = rows_of(lambda z, w: dense.weigh(z, w).sum().log(), z, weights)
    torch.testing.assert_close(prior.log_prob_joint(z, [value, soft, real]), expected, **EXACT)
    assert prior([value, soft, real]).batch_shape == (2,)


@both
def test_soft_evidence_may_stand_alone(boundary):
    """Log weights of one label, nothing said of the others."""
    prior = make(boundary, [3, 4])
    dense = Dense(prior)
    soft = torch.randn(2, 4).double()
    q = prior([None, soft])
    assert q.batch_shape == (2,)
    expected = torch.stack([dense.weigh(None, [None, w.exp()]).sum().log() for w in soft])
    torch.testing.assert_close(prior.log_prob_labels([None, soft]), expected, **EXACT)


def test_a_mask_does_not_fit_a_continuous_label():
    prior = make("ring", [Continuous(2)])
    with pytest.raises(ValueError):
        prior([torch.ones(5, 2, dtype=torch.bool)])


def best_by_enumeration(dense, z, weights, wanted):
    """The most probable values of some labels together, and their log probability given everything known."""
    table = dense.weigh(z, weights)
    others = [axis for axis in range(table.ndim) if axis not in {dense.d + j for j in wanted}]
    table = table.sum(others)
    best = torch.unravel_index(table.argmax(), table.shape)
    return torch.stack(best), (table.max() / table.sum()).log()


def rugged(boundary, labels, seed=0):
    """Cores of very different entries, so that the most probable labels differ with the latents."""
    prior = make(boundary, labels, seed=seed, start="random", mean_range=1.0)
    with torch.no_grad():
        for log_cores in prior.chain.parameters():
            log_cores += 3 * torch.randn_like(log_cores)
    return prior


@both
@pytest.mark.parametrize("latents", [True, False])
@pytest.mark.parametrize("labels", [[3], [Categorical(2), 4], [2, Continuous(2), 3], [4, 3, 2, 5]], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_completions_are_those_of_the_enumeration(boundary, latents, labels, seed):
    prior = rugged(boundary, labels, seed)
    dense = Dense(prior)
    y, weights = known(prior, rows=8)
    z = 3 * torch.randn(8, 3).double() if latents else None
    wanted = [j for j, label in enumerate(prior.labels) if isinstance(label, Categorical)]
    found, log_p = prior.complete(z, y)
    assert found.shape == y.shape
    assert found.dtype == (torch.long if len(wanted) == len(labels) else torch.float64)
    for row in range(8):
        best, expected = best_by_enumeration(dense, z[row] if latents else None, weights[row], wanted)
        assert found[row, wanted].tolist() == best.tolist()
        torch.testing.assert_close(log_p[row], expected, **EXACT)
        for j in range(len(labels)):
            unknown = y[row, j].isnan() if j not in wanted else y[row, j] == -1
            if j not in wanted or not unknown:
                assert torch.equal(found[row, j].nan_to_num(7.0), y[row, j].nan_to_num(7.0))


def test_labels_of_one_size_do_not_start_as_the_same():
    torch.manual_seed(0)
    prior = TRIP(2, rank=20, labels=[2, 2])
    p = prior.log_prob_labels(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])).exp()
    assert (p > 0.1).all()


def test_continuous_labels_start_on_their_interval():
    means, deviations = TRIP(2, labels=[3, Continuous(4, 10.0, 40.0)]).label_components(1)
    torch.testing.assert_close(means, torch.tensor([10.0, 20, 30, 40]))
    torch.testing.assert_close(deviations, torch.full((4,), 7.5))
    with pytest.raises(ValueError, match="label 0 is not continuous"):
        TRIP(2, labels=[3]).label_components(0)
    same = TRIP(2, labels=[3, Interval(10.0, 40.0)])
    assert same.labels[1] == Continuous(low=10.0, high=40.0)


@both
def test_completions_of_sets_stay_in_them(boundary):
    prior = rugged(boundary, [4, 3, Continuous(2)])
    dense = Dense(prior)
    z = torch.randn(5, 3).double()
    allowed = torch.tensor([True, False, True, False])
    found, log_p = prior.complete(z, [allowed, None, torch.tensor([0.5]).double()])
    normal = torch.distributions.Normal(*prior.label_components(2))
    weights = [allowed.double(), None, normal.log_prob(torch.tensor(0.5)).exp().detach()]
    for row in range(5):
        best, expected = best_by_enumeration(dense, z[row], weights, [0, 1])
        assert found[row].tolist() == [*best.tolist(), 0.5]
        torch.testing.assert_close(log_p[row], expected, **EXACT)


@both
def test_completions_without_any_knowledge(boundary):
    prior = rugged(boundary, [4, 3])
    found, log_p = prior.complete()
    assert found.shape == (2,)
    best, expected = best_by_enumeration(Dense(prior), None, [None, None], [0, 1])
    assert torch.equal(found, best)
    torch.testing.assert_close(log_p, expected, **EXACT)


@both
def test_a_completion_is_more_probable_than_labels_one_by_one(boundary):
    """Or as probable. A beam too narrow for all combinations still tells the true probability of what it found."""
    prior = rugged(boundary, [3] * 6)
    z = 3 * torch.randn(64, 3).double()

    def log_probability(y):
        return prior.log_prob_joint(z, y) - prior().log_prob(z)

    full, log_p = prior.complete(z, beam=3**6)
    alone = torch.stack([p.argmax(-1) for p in prior.label_posteriors(z)], -1)
    torch.testing.assert_close(log_p, log_probability(full), **EXACT)
    assert (log_p >= log_probability(alone) - 1e-12).all()
    assert len(full.unique(dim=0)) > 3
    assert (full != alone).any()
    narrow, log_narrow = prior.complete(z, beam=1)
    torch.testing.assert_close(log_narrow, log_probability(narrow), **EXACT)
    assert (log_narrow <= log_p + 1e-12).all()
    assert (narrow != full).any()


def test_what_cannot_be_completed():
    with pytest.raises(ValueError, match="categorical"):
        make("ring").complete(torch.zeros(3).double())
    with pytest.raises(ValueError, match="categorical"):
        make("ring", [Continuous(2)]).complete()
    prior = make("ring", [3, 2])
    with pytest.raises(ValueError, match="beam"):
        prior.complete(beam=0)
    for z in (torch.zeros(2), torch.full((3,), math.nan)):
        with pytest.raises(ValueError):
            prior.complete(z.double())
    with pytest.raises(ValueError):
        prior.complete(None, torch.tensor([3, 0]))


@both
def test_samples_given_labels_that_differ_by_row(boundary):
    """Kolmogorov-Smirnov on projections, which see dependence too: false alarms in less than 10^-6 of the 15."""
    prior = make(boundary, [3, 2], seed=5, deviation=0.5)
    dense = Dense(prior)
    y = torch.tensor([[0, -1], [2, 1], [-1, -1]])
    weights = [[torch.eye(3)[0], None], [torch.eye(3)[2], torch.eye(2)[1]], [None, None]]
    count = 20_000
    z = prior(y).sample((count,))
    assert z.shape == (count, 3, 3)
    bound = math.sqrt(-0.5 * math.log(1e-6 / 15 / 2) / count)
    grid = torch.arange(count + 1).double() / count
    for row in range(3):
        for direction in [*torch.eye(3).double(), *torch.randn(2, 3).double()]:
            points = (z[:, row] @ direction).sort().values
            cdf = dense.projection_cdf(dense.weigh(None, weights[row]), direction, points)
            distance = torch.maximum((grid[1:] - cdf).max(), (cdf - grid[:-1]).max())
            assert distance < bound


@both
def test_samples_of_different_labels_differ(boundary):
    """The bound of the test above tells the rows from one another, or it would show nothing."""
    dense = Dense(make(boundary, [3, 2], seed=5, deviation=0.5))
    points = torch.linspace(-15, 15, 301).double()
    cdfs = [
        torch.stack([dense.projection_cdf(dense.weigh(None, w), e, points) for e in torch.eye(3).double()])
        for w in ([torch.eye(3)[0], None], [torch.eye(3)[2], torch.eye(2)[1]], [None, None])
    ]
    bound = 2 * math.sqrt(-0.5 * math.log(1e-6 / 15 / 2) / 20_000)
    assert all((cdfs[i] - cdfs[j]).abs().max() > bound for i, j in ((0, 1), (0, 2), (1, 2)))


@both
def test_shapes_of_expanded_distributions(boundary):
    prior = make(boundary, [3])
    z = torch.randn(3).double()
    one = prior()
    many = one.expand((2, 5))
    assert (many.batch_shape, many.event_shape) == ((2, 5), (3,))
    assert many.sample((4,)).shape == many.rsample((4,)).shape == (4, 2, 5, 3)
    assert many.mean.shape == many.variance.shape == (2, 5, 3)
    torch.testing.assert_close(many.log_prob(z), one.log_prob(z).expand(2, 5), **EXACT)
    assert many.marginal([1]).batch_shape == (2, 5)
    rows = prior(torch.tensor([[0], [2]])).expand((4, 2))
    assert rows.sample((3,)).shape == (3, 4, 2, 3)
    torch.testing.assert_close(rows.mean, prior(torch.tensor([[0], [2]])).mean.expand(4, 2, 3), **EXACT)
    assert one.sample((0,)).shape == (0, 3)
    assert one.log_prob(torch.zeros(0, 3).double()).shape == (0,)


@both
def test_the_posterior_of_an_expanded_distribution_has_its_batch(boundary):
    many = make(boundary)().expand((2, 5))
    assert many.component_posterior(torch.zeros(3).double()).shape == (2, 5, 3, 3)


@both
def test_a_distribution_is_one_of_torch(boundary):
    p = make(boundary)()
    assert isinstance(p, ChainMixture)
    assert isinstance(p, torch.distributions.Distribution)
    assert p.has_rsample
    assert p.support.check(torch.zeros(2, 3)).tolist() == [True, True]
    assert boundary in repr(p)


@both
@pytest.mark.parametrize("far", [40.0, -40.0])
def test_float32_far_out(boundary, far):
    """40 deviations beyond the last mean, where every density underflows."""
    torch.manual_seed(0)
    prior = TRIP(20, 10, 20, [5], boundary)
    edge = prior.means.detach()[:, -1 if far > 0 else 0] + far * prior.deviations.detach()[:, 0]
    z = edge.repeat(2, 1).requires_grad_()
    y = torch.tensor([[3], [-1]])
    found = prior(y).log_prob(z)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(z.grad).all()
    assert (z.grad * far < 0).all()
    assert all(torch.isfinite(p.grad).all() for p in prior.parameters())
    exact = prior.double()(y).log_prob(z.detach().double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)
    assert all(torch.isfinite(p).all() for p in prior.float().label_posteriors(z.detach(), y))


@both
@pytest.mark.parametrize(
    "sizes",
    [{"features": 1}, {"components": 1}, {"rank": 1}, {"features": 1, "components": 1, "rank": 1}],
    ids=str,
)
@pytest.mark.parametrize("labels", [[], [2], [Continuous(1)]], ids=str)
def test_edges(boundary, sizes, labels):
    prior = make(boundary, labels, **sizes)
    dense = Dense(prior)
    z = torch.randn(2, prior.features).double()
    expected = torch.stack([dense.weigh(row).sum().log() for row in z])
    torch.testing.assert_close(prior().log_prob(z), expected, **EXACT)
    assert prior().rsample((5,)).shape == (5, prior.features)
    mean, variance = dense.moments(dense.weigh())
    torch.testing.assert_close(prior().mean, mean, **EXACT)
    torch.testing.assert_close(prior().variance, variance, **EXACT)


def test_rank_one_is_independent():
    prior = make("ring", [3], rank=1)
    z = torch.randn(5, 3).double()
    alone = sum(prior().marginal([k]).log_prob(z[:, [k]]) for k in range(3))
    torch.testing.assert_close(prior().log_prob(z), alone, **EXACT)
    torch.testing.assert_close(prior(torch.tensor([1])).log_prob(z), alone, **EXACT)


def test_start_near_a_mixture_depends_and_starts_between_the_ends():
    torch.manual_seed(0)
    prior = TRIP(2, 5, 4, mean_range=2.0, deviation=0.5)
    assert prior.means.min() == -2
    assert prior.means.max() == 2
    torch.testing.assert_close(prior.deviations, torch.full((2, 5), 0.5))
    table = Dense(prior).table
    independent = table.sum(1, keepdim=True) * table.sum(0, keepdim=True)
    information = (table * (table / independent).log()).sum()
    table = Dense(TRIP(2, 5, 4, start="random")).table
    independent = table.sum(1, keepdim=True) * table.sum(0, keepdim=True)
    assert information > 0.05 > (table * (table / independent).log()).sum()


@pytest.mark.parametrize("kind", [TRIP, TTLP])
def test_a_few_labels_are_enough_for_a_start_that_is_sure(kind):
    torch.manual_seed(0)
    centres = 3 * torch.eye(3, 4)
    y = torch.randint(3, (6000, 1))
    z = centres[y[:, 0]] + 0.6 * torch.randn(6000, 4)
    hidden = torch.full_like(y, -1)
    hidden[5000:5030] = y[5000:5030]  # half a per cent, not the first ones
    prior = kind(4, 8, 6, labels=[3])
    prior.fit(z, hidden, steps=0)
    found = prior.label_posteriors(z)[0]
    truth = torch.distributions.MultivariateNormal(centres, 0.36 * torch.eye(4)).log_prob(z.unsqueeze(1)).softmax(-1)
    assert (found.argmax(-1) == y[:, 0]).double().mean() > (truth.argmax(-1) == y[:, 0]).double().mean() - 0.02
    score = found.gather(-1, y).log().mean()
    assert score > truth.gather(-1, y).log().mean() - 0.15


@both
def test_every_label_starts_with_latents_of_its_own(boundary):
    torch.manual_seed(0)
    prior = TRIP(6, 5, 6, [3, 3], boundary)
    z = torch.randn(200, 6)
    other = z.clone()
    first, second = ([v for v in block if v < 6] for block in prior.blocks)
    assert len(first) == len(second) == 3
    other[:, second] = torch.randn(200, 3)
    before, after = prior.label_posteriors(z), prior.label_posteriors(other)
    assert (before[0] - after[0]).abs().max() < 0.1 < (before[1] - after[1]).abs().max()
    y = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    joint = prior.log_prob_labels(y).exp().reshape(3, 3)
    torch.testing.assert_close(joint, joint.sum(1, keepdim=True) * joint.sum(0), atol=0.01, rtol=0)


@both
def test_the_start_knows_more_combinations_of_labels_than_it_has_products(boundary):
    """Two labels of four values each, from a twentieth of the labels, by four products a block."""
    torch.manual_seed(0)
    prior = TRIP(4, 8, 4, [4, 4], boundary)
    y = torch.randint(4, (4000, 2))
    centres = 3 * torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]))
    z = torch.empty(4000, 4)
    for j, block in enumerate(prior.blocks):
        z[:, block[:2]] = centres[y[:, j]] + 0.7 * torch.randn(4000, 2)
    prior.fit(z, torch.where(torch.rand(4000, 2) < 0.95, -1, y), steps=0)
    right = torch.stack([p.argmax(-1) for p in prior.label_posteriors(z)], 1) == y
    assert right.double().mean() > 0.95


@pytest.mark.parametrize("kind", [TRIP, TTLP])
@pytest.mark.parametrize(
    "wrong",
    [
        {"features": 0},
        {"components": 0},
        {"rank": 0},
        {"mean_range": 0.0},
        {"mean_range": -1.0},
        {"mean_range": math.nan},
        {"deviation": 0.0},
        {"deviation": -1.0},
        {"start": "somehow"},
        {"labels": [1]},
    ],
    ids=str,
)
def test_numbers_out_of_range(kind, wrong):
    with pytest.raises(ValueError):
        kind(**{"features": 3, "components": 3, "rank": 2} | wrong)


def test_boundaries():
    assert TTLP(3).boundary == "train"
    assert TRIP(3).boundary == "ring"
    with pytest.raises(ValueError, match="boundary"):
        TRIP(3, boundary="knot")


@pytest.mark.parametrize(
    "wrong",
    [lambda: Categorical(1), lambda: Continuous(0), lambda: Continuous(2, 1.0, 1.0), lambda: Continuous(2, 3.0)],
)
def test_labels_that_cannot_be(wrong):
    with pytest.raises(ValueError):
        wrong()


@pytest.mark.parametrize(
    "y",
    [
        torch.tensor(0),
        torch.tensor([0]),
        torch.tensor([[0, 0, 0]]),
        torch.tensor([3, 0]),
        torch.tensor([-2, 0]),
        torch.tensor([0, 2]),
        torch.tensor([0.5, 1.0]),
        torch.tensor([math.inf, 1.0]),
        [torch.tensor([0])],
        [torch.tensor([0]), torch.ones(1, 3, dtype=torch.bool)],
        [torch.tensor([0]), torch.zeros(1, 3)],
        [None, torch.zeros(2, 2, dtype=torch.bool)],
    ],
    ids=str,
)
def test_labels_that_do_not_fit(y):
    with pytest.raises(ValueError):
        make("ring", [3, 2])(y)


@both
def test_latents_that_do_not_fit(boundary):
    prior = make(boundary, [2])
    p = prior()
    for wrong in (torch.zeros(2), torch.zeros(4, 2), torch.tensor(0.0)):
        with pytest.raises(ValueError):
            p.log_prob(wrong.double())
        with pytest.raises(ValueError):
            prior.label_posteriors(wrong.double())
    for wrong in (math.nan, math.inf):
        for function in (p.log_prob, p.component_posterior, prior.label_posteriors, prior.log_prob_joint):
            with pytest.raises(ValueError):
                function(torch.tensor([0.0, wrong, 0.0]).double())
    for dims in ([], [3], [-1], [0, 0]):
        with pytest.raises(ValueError):
            p.marginal(dims)
    z = torch.zeros(3).double()
    for mask in (torch.ones(3, dtype=torch.bool), torch.zeros(2, dtype=torch.bool), torch.zeros(3)):
        with pytest.raises(ValueError):
            p.condition(z, mask)
    with pytest.raises(ValueError):
        p.condition(torch.full((3,), math.nan).double(), torch.tensor([True, False, False]))
    with pytest.raises(ValueError):
        TRIP(3).label_posteriors(torch.zeros(3))


@pytest.mark.parametrize(
    "z",
    [torch.zeros(0, 3), torch.zeros(100, 4), torch.zeros(100), torch.full((100, 3), math.nan)],
    ids=["empty", "shape", "1d", "nan"],
)
def test_latents_that_cannot_be_fitted(z):
    with pytest.raises(ValueError):
        TRIP(3, 3, 2).fit(z)


@both
def test_the_start_by_expectation_maximisation_knows_the_labels(boundary):
    """Fitting without steps, from half of the labels: other samples are told apart, which a new prior cannot do."""
    torch.manual_seed(0)
    centres = 3 * torch.randn(5, 6)
    y = torch.randint(5, (2000, 1))
    z = centres[y[:, 0]] + torch.randn(2000, 6)
    prior = TRIP(6, 6, 10, [5, 2], boundary)
    hidden = torch.where(torch.rand(1000, 1) < 0.5, -1, y[:1000])
    before = prior.log_prob_joint(z[1000:], torch.cat([y[1000:], -torch.ones_like(y[1000:])], 1)).mean()
    prior.fit(z[:1000], torch.cat([hidden, -torch.ones_like(hidden)], 1), steps=0)
    after = prior.log_prob_joint(z[1000:], torch.cat([y[1000:], -torch.ones_like(y[1000:])], 1)).mean()
    found, unseen = prior.label_posteriors(z[1000:])
    assert after > before + 1
    assert (found.argmax(-1) == y[1000:, 0]).double().mean() > 0.9
    # nobody has told anything of the second label
    assert (unseen - 0.5).abs().max() < 0.3


@pytest.mark.parametrize(("features", "labels"), [(10, 1), (10, 3), (5, 5), (2, 6), (1, 4), (64, 40)])
def test_labels_are_spread_among_latents(features, labels):
    """Every variable once; between labels numbers of latents that differ by at most one, and no more at the ends."""
    order = TRIP(features, 2, 2, [2] * labels).order.tolist()
    assert sorted(order) == list(range(features + labels))
    at = [p for p, v in enumerate(order) if v >= features]
    gaps = [b - a for a, b in pairwise(at)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    step = (features + labels) / labels
    assert at[0] < step
    assert len(order) - at[-1] <= step + 1


def test_order_is_a_permutation_by_its_seed():
    orders = {tuple(TRIP(12, 2, 2, order_seed=seed).order.tolist()) for seed in range(5)}
    assert len(orders) == 5
    assert TRIP(12, 2, 2, order_seed=3).order.equal(TRIP(12, 2, 2, order_seed=3).order)


@both
def test_the_order_is_saved(boundary):
    """A prior built with another seed of the order is the one that was saved, once it has loaded it."""
    first, second = (make(boundary, [4, Continuous(3)], features=6, order_seed=seed) for seed in (0, 1))
    assert not first.order.equal(second.order)
    second.load_state_dict(first.state_dict())
    z = torch.randn(5, 6).double()
    y = torch.tensor([[3, 0.5], [-1, -0.5], [0, torch.nan], [1, 1.0], [2, 0.0]]).double()
    torch.testing.assert_close(second().log_prob(z), first().log_prob(z), **EXACT)
    torch.testing.assert_close(second.log_prob_joint(z, y), first.log_prob_joint(z, y), **EXACT)


@both
def test_another_order_is_the_enumeration_s_and_is_saved(boundary):
    """Sizes of the positions change with the order; parameters stay the same ones."""
    prior = make(boundary, [2, 4, Continuous(3)])
    parameters = [id(p) for p in prior.parameters()]
    order = torch.tensor([3, 0, 5, 2, 1, 4])
    prior.set_order(order)
    assert prior.order.equal(order)
    assert [id(p) for p in prior.parameters()] == parameters
    assert prior.blocks == [[3], [0, 2, 5], [1, 4]]  # a latent half-way between two labels goes with the second
    dense = Dense(prior)
    y, weights = known(prior)
    z = torch.randn(4, 3).double()
    joint = rows_of(lambda z, w: dense.weigh(z, w).sum().log(), z, weights)
    torch.testing.assert_close(prior.log_prob_joint(z, y), joint, **EXACT)
    loaded = make(boundary, [2, 4, Continuous(3)], seed=1)
    loaded.load_state_dict(prior.state_dict())
    torch.testing.assert_close(loaded.log_prob_joint(z, y), joint, **EXACT)


def test_orders_that_cannot_be():
    for order in ([0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="permutation"):
            make("ring", [2]).set_order(torch.tensor(order))
    weights = make("ring", [2]).state_dict() | {"order": torch.tensor([0, 1, 2, 2])}
    with pytest.raises(ValueError, match="permutation"):
        make("ring", [2]).load_state_dict(weights)
    narrow = make("ring", [2], closing_rank=2)
    with pytest.raises(ValueError, match="in another order"):  # the label would be at the end
        narrow.set_order(torch.tensor([0, 1, 2, 3]))


@both
def test_a_fit_puts_related_variables_side_by_side(boundary):
    """Three pairs of latents and a label each, of three sizes, on a chain that starts with strangers as neighbours."""
    torch.manual_seed(0)
    y = torch.stack([torch.randint(n, (4000,)) for n in (2, 3, 4)], 1)
    centres = torch.cat([y, y], 1).float()
    z = 3 * centres + 0.4 * torch.randn(4000, 6)
    prior = TRIP(6, 6, 6, [2, 3, 4], boundary)
    prior.fit(z, torch.where(torch.rand(y.shape) < 0.9, -1, y), steps=0)
    groups = [{v % 3 for v in prior.order.tolist()[k : k + 3]} for k in (0, 3, 6)]
    assert all(len(group) == 1 for group in groups)
    assert sorted(prior.order.tolist()) == list(range(9))
    right = torch.stack([p.argmax(-1) for p in prior.label_posteriors(z)], 1) == y
    assert right.double().mean() > 0.99


@pytest.mark.parametrize(
    ("samples", "told", "rate"),
    [(9_999, None, 0.01), (10_000, None, 0.1), (10_000, 0, 0.1), (10_000, 500, 0.01), (20_000, 10_000, 0.1)],
)
def test_the_steps_of_a_fit_are_large_where_ten_thousand_samples_tell_of_everything(samples, told, rate):
    """Adam's first step moves every parameter that has a gradient by the learning rate."""
    torch.manual_seed(0)
    z = torch.randn(samples, 2)
    y = None
    if told is not None:
        y = torch.randint(2, (samples, 2))
        y[told:, 0] = -1
        y[:, 1] = -1  # of which nobody tells
    prior, start = TRIP(2, 3, 4, [2, 2]), TRIP(2, 3, 4, [2, 2])
    for p, steps in ((start, 0), (prior, 1)):
        torch.manual_seed(1)
        p.fit(z, y, steps=steps)
    torch.testing.assert_close((prior.means - start.means).abs().amax(), torch.tensor(rate), rtol=1e-3, atol=0)


def test_a_narrower_closing_bond_keeps_its_order_in_a_fit():
    prior = TRIP(4, 3, 4, [2], closing_rank=2)
    before = prior.order.clone()
    prior.fit(torch.randn(100, 4), torch.randint(2, (100, 1)), steps=1)
    assert prior.order.equal(before)


@both
def test_a_state_of_other_sizes_does_not_load(boundary):
    with pytest.raises(RuntimeError):
        make(boundary, [4]).load_state_dict(make(boundary, [3]).state_dict())
