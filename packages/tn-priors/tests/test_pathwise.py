"""Pathwise gradients: against quantiles by finite differences, and against the score function."""

import pytest
import torch
from torch.distributions import Normal
from trip_oracle import shake

from tn_core.chain import Grouped
from tn_priors import TRIP, GaussianMixture
from tn_priors.chain_mixture import normal_log_density
from tn_priors.comparisons import estimators_agree
from tn_priors.pathwise import implicit_draw, pathwise

both = pytest.mark.parametrize("boundary", ["ring", "train"])


def make(boundary, features, labels=(), seed=0):
    torch.manual_seed(seed)
    return shake(TRIP(features, 3, 3, labels, boundary))


def bisect(function, target):
    """Solves function(x) = target for an increasing function, elementwise."""
    low, high = torch.full_like(target, -100), torch.full_like(target, 100)
    for _ in range(80):
        middle = (low + high) / 2
        above = function(middle) > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def conditional_cdf(prior, y, k, given):
    """The distribution function of z_k given the dimensions before it in the order of the chain."""
    p = prior(y)
    before = [j for j in prior.order.tolist() if j < prior.features]
    before = before[: before.index(k)]
    # a density of the dimensions before and each component of z_k, by the posterior of the component
    if before:
        mask = torch.tensor([j in before for j in range(prior.features)])
        conditional = p.condition(given, mask)
        left = [j for j in range(prior.features) if j not in before]
        weights = conditional.component_probabilities()[..., left.index(k), :]
    else:
        weights = p.component_probabilities()[..., k, :]
    means, deviations = prior.means[k], prior.deviations[k]
    return lambda x: (weights * Normal(means, deviations).cdf(x.unsqueeze(-1))).sum(-1)


def quantiles(prior, y, u):
    """The samples (rows, d) that uniforms u (rows, d) stand for, by bisection along the chain."""
    z = torch.zeros_like(u)
    for k in [j for j in prior.order.tolist() if j < prior.features]:
        z[:, k] = bisect(conditional_cdf(prior, y, k, z), u[:, k])
    return z


@both
@pytest.mark.parametrize("features", [1, 2, 3])
@pytest.mark.parametrize("labelled", [False, True])
def test_derivatives_are_those_of_quantiles(boundary, features, labelled):
    """Every sample's every dimension along a random direction of every parameter, by central differences."""
    prior = make(boundary, features, [2] if labelled else [])
    y = torch.tensor([[0], [1], [-1]]) if labelled else None
    u = torch.rand(3, features).double()
    with torch.no_grad():
        z = quantiles(prior, y, u)
    p = prior(y)
    sampled = pathwise(z, p.cores, p.boundary, p.positions, p.means, p.deviations, p.evidence)
    assert torch.equal(sampled, z)
    step = 1e-5
    for name, parameter in prior.named_parameters():
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += step * direction
            above = quantiles(prior, y, u)
            parameter -= 2 * step * direction
            below = quantiles(prior, y, u)
            parameter += step * direction
        expected = (above - below) / (2 * step)
        for index in range(z.numel()):
            (slope,) = torch.autograd.grad(sampled.flatten()[index], parameter, retain_graph=True)
            found = (slope * direction).sum()
            torch.testing.assert_close(found, expected.flatten()[index], rtol=1e-5, atol=1e-7, msg=name)
        assert expected.abs().max() > 1e-4  # there is something to agree on


@both
def test_evidence_has_gradients(boundary):
    """Soft evidence moves the samples as the quantiles say."""
    prior = make(boundary, 2, [3])
    soft = torch.randn(1, 3).double().requires_grad_()

    def known(weights):
        return prior()._replace(evidence={prior._position[2]: weights}, batch_shape=torch.Size([1]))

    p = known(soft)
    z = p.sample()
    sampled = pathwise(z, p.cores, p.boundary, p.positions, p.means, p.deviations, p.evidence)
    first = min(range(2), key=lambda k: prior._position[k])
    (slope,) = torch.autograd.grad(sampled[0, first], soft)

    def cdf(weights):
        components = known(weights).component_probabilities()[0, first]
        return (components * Normal(prior.means[first], prior.deviations[first]).cdf(z[0, first])).sum()

    density = known(soft).marginal([first]).log_prob(z[:, [first]]).exp()
    (expected,) = torch.autograd.grad(-cdf(soft) / density.detach(), soft)
    torch.testing.assert_close(slope, expected, rtol=1e-8, atol=1e-10)
    assert slope.abs().max() > 1e-4


@both
def test_paths_and_scores_and_both_agree_row_by_row(boundary):
    """On eight labelled latents, given labels that differ by row; five standard errors, 40 batches."""
    torch.manual_seed(0)
    prior = shake(TRIP(8, 3, 4, [3], boundary))
    p = prior(torch.tensor([[0], [2], [-1]]))
    pilot = p.sample((2000,)).flatten(0, 1)
    frequency = 1 / pilot.std(0)

    def smooth(z):
        return torch.sin((z * frequency).sum(-1) / 2) + torch.tanh(z * frequency).mean(-1)

    baseline = smooth(pilot).mean()
    directions = [torch.randn_like(parameter) for parameter in prior.parameters()]

    def surrogate(name):
        if name == "path":
            return smooth(p.rsample((400,)))
        if name == "both":
            z, log_p = p.rsample_with_score((400,))
            return smooth(z) + (smooth(z) - baseline).detach() * log_p
        z = p.sample((400,))
        return (smooth(z) - baseline) * p.log_prob(z)

    gradients = {"path": [], "score": [], "both": []}
    for _ in range(40):
        for name in gradients:
            loss = surrogate(name)
            slopes = torch.autograd.grad(loss.mean(), list(prior.parameters()), retain_graph=True)
            gradients[name].append(torch.stack([(s * d).sum() for s, d in zip(slopes, directions, strict=True)]))
    path, score, both = (torch.stack(drawn) for drawn in gradients.values())
    for other in (score, both):
        error = ((path.var(0) + other.var(0)) / 40).sqrt()
        assert ((path.mean(0) - other.mean(0)).abs() < 5 * error).all()
        assert path.var(0).sum() < other.var(0).sum()  # what paths are for, where Gaussians overlap


@both
def test_samples_by_the_piece_have_the_same_derivatives(boundary, monkeypatch):
    """With labels before, among and after the latents, evidence that differs by row, and several samples a row."""
    prior = make(boundary, 4, [2, 3, 2])
    y = torch.tensor([[0, -1, -1], [1, 2, 0], [-1, -1, 1]])
    torch.manual_seed(1)
    z = prior(y).rsample((5,))
    slopes = torch.randn_like(z)
    parameters = list(prior.parameters())
    whole = torch.autograd.grad(z, parameters, slopes)
    monkeypatch.setattr("tn_priors.pathwise._AT_ONCE", 100)
    torch.manual_seed(1)
    pieces = torch.autograd.grad(prior(y).rsample((5,)), parameters, slopes)
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_estimators_that_disagree_are_told_apart():
    """The comparison rejects a path that is 10 % too long."""

    class Long(torch.distributions.Independent):
        def rsample(self, sample_shape=()):
            z = super().rsample(sample_shape)
            return z.detach() + 1.1 * (z - z.detach())

    torch.manual_seed(0)
    layer = torch.nn.ParameterList([torch.zeros(2).double()])
    with pytest.raises(AssertionError):
        estimators_agree(layer, Long(Normal(layer[0], 1.0), 1), 200_000)


@both
def test_values_are_the_samples(boundary):
    prior = make(boundary, 4, [2])
    check_values_are_the_samples(prior(torch.tensor([[0], [-1]])))
    check_values_are_the_samples(prior().expand((3,)))


def test_values_of_a_mixture_are_the_samples():
    check_values_are_the_samples(GaussianMixture(4, 3).double()())


def check_values_are_the_samples(p):
    torch.manual_seed(3)
    drawn = p.sample((5,))
    torch.manual_seed(3)
    assert torch.equal(p.rsample((5,)), drawn)
    torch.manual_seed(3)
    z, log_p = p.rsample_with_score((5,))
    assert torch.equal(z, drawn)
    torch.testing.assert_close(log_p, p.log_prob(drawn))


def test_a_mixtures_paths_and_scores_agree():
    """Directions of every parameter; five standard errors, 40 batches."""
    torch.manual_seed(0)
    mixture = GaussianMixture(3, 4, mean_scale=1.0).double()
    p, gradients = mixture(), {"path": [], "both": []}
    for _ in range(40):
        z, log_p = p.rsample_with_score((2000,))
        value = torch.sin(z).sum(-1)
        losses = {"path": torch.sin(p.rsample((2000,))).sum(-1), "both": value + value.detach() * log_p}
        for name, loss in losses.items():
            slopes = torch.autograd.grad(loss.mean(), list(mixture.parameters()), retain_graph=True)
            gradients[name].append(torch.cat([slope.flatten() for slope in slopes]))
    path, both = (torch.stack(drawn) for drawn in gradients.values())
    error = ((path.var(0) + both.var(0)) / 40).sqrt()
    assert ((path.mean(0) - both.mean(0)).abs() < 5 * error + 1e-12).all()
    assert (path.mean(0).abs() > 5 * error).any()


def test_a_mixture_is_a_ring_that_copies_its_state():
    """The mixture's own pathwise gradients are those of a ring of rank K whose bond is the component."""
    torch.manual_seed(0)
    mixture = GaussianMixture(3, 4).double()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    p = mixture()
    torch.manual_seed(1)
    z = p.rsample((6,))
    copying = torch.einsum("sa,sb->sab", torch.eye(4).double(), torch.eye(4).double())
    first = copying * mixture.logits.softmax(0)[:, None, None]
    cores = Grouped(((tuple(range(3)), torch.stack([first, copying, copying])),), (4,) * 4)
    ring = pathwise(z.detach(), cores, "ring", (0, 1, 2), mixture.means.T, mixture.deviations.T, {})
    weights = torch.randn_like(z)
    parameters = list(mixture.parameters())
    found = torch.autograd.grad((z * weights).sum(), parameters)
    expected = torch.autograd.grad((ring * weights).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_one_gaussian_is_the_usual_reparameterisation():
    mean, log_deviation = torch.tensor([[0.7]]).double(), torch.tensor([[0.3]]).double()
    mean.requires_grad_(), log_deviation.requires_grad_()
    start = torch.tensor([1.9]).double()
    z = implicit_draw(start, torch.ones(1, 1).double(), mean, log_deviation.exp())
    slopes = torch.autograd.grad(z.sum(), [mean, log_deviation])
    torch.testing.assert_close(slopes[0], torch.ones_like(mean))
    torch.testing.assert_close(slopes[1], (start - mean).detach())


@both
@pytest.mark.parametrize("side", [-1, 1])
def test_paths_in_the_far_tail_keep_their_digits_in_float32(boundary, side):
    """A drawn value may be rare: the density must not be divided away, nor the rounding of a cdf near one by it."""
    torch.manual_seed(0)
    prior = TRIP(4, 3, 3, (), boundary)
    p = prior()
    z = side * (torch.full((2, 4), 5.0) + 7 * prior.deviations.detach()[0, 0])
    sampled = pathwise(z, p.cores, boundary, p.positions, p.means, p.deviations, {})
    slopes = torch.autograd.grad(sampled.sum(), list(prior.parameters()))
    assert all(torch.isfinite(s).all() for s in slopes)
    # out there one Gaussian is left: a sample moves with its mean
    torch.testing.assert_close(slopes[0].sum(1), torch.full((4,), 2.0), rtol=1e-3, atol=0)


def test_log_density_is_that_of_torch():
    x, mean, deviation = torch.randn(5).double(), torch.randn(5).double(), torch.rand(5).double() + 0.1
    torch.testing.assert_close(normal_log_density(x, mean, deviation), Normal(mean, deviation).log_prob(x))
