"""Bounds that are known in closed form: linear Gaussian models, one Gaussian, one category; and by quadrature."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from tn_priors import TRIP, GaussianMixture, StandardNormal, VampPrior
from tn_vae import CPVAE, HVAE, MLP, VAE, GatedMLP
from tn_vae.autoencoder import estimated_divergence


class Linear(nn.Module):
    """An encoder and a decoder without a hidden layer."""

    def __init__(self, size, features):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(size, 2 * features), nn.Linear(features, size)


def linear_gaussian(prior=None, deviation=0.7):
    """x = W z + b + noise with orthogonal columns of W, whose exact posterior the encoder gives; and p(x)."""
    torch.manual_seed(0)
    size, features = 6, 3
    model = VAE(Linear(size, features), prior or StandardNormal(features), "gaussian_real", deviation, warmup_steps=0)
    model.double().eval()
    w = torch.linalg.qr(torch.randn(size, features, dtype=torch.float64))[0] * torch.tensor([2.0, 1.0, 0.3])
    b = torch.randn(size, dtype=torch.float64)
    precision = 1 + w.square().sum(0) / deviation**2
    log_deviation = -0.5 * precision.log()
    with torch.no_grad():
        model.network.decoder.weight.copy_(w)
        model.network.decoder.bias.copy_(b)
        to_mean = w.T / deviation**2 / precision.unsqueeze(1)
        model.network.encoder.weight.copy_(torch.cat([to_mean, torch.zeros_like(to_mean)]))
        # undoes the smooth bound of the deviations
        model.network.encoder.bias.copy_(torch.cat([-to_mean @ b, 7 * torch.atanh(log_deviation / 7)]))
    evidence = MultivariateNormal(b, w @ w.T + deviation**2 * torch.eye(size, dtype=torch.float64))
    return model, evidence


def test_a_linear_gaussian_model_has_its_exact_evidence():
    model, evidence = linear_gaussian()
    x = evidence.sample((5,))
    with torch.no_grad():
        # the posterior is exact, so every importance weight is the evidence
        assert torch.allclose(model.log_weights(x, None, 4), evidence.log_prob(x).expand(4, -1), atol=1e-9)
        assert torch.allclose(model.iwae(x, samples=3), evidence.log_prob(x), atol=1e-9)
        # and so is the bound, up to the noise of one sample a row: its mean over 20,000, within five standard errors
        bound = model.elbo(x.repeat(20_000, 1)).reshape(-1, 5)
    error = bound.std(0) / len(bound) ** 0.5
    assert ((bound.mean(0) - evidence.log_prob(x)).abs() < 5 * error).all()


def test_bounds_grow_with_the_number_of_samples():
    model, evidence = linear_gaussian()
    with torch.no_grad():  # a posterior that is off: too wide, at another place
        model.network.encoder.bias += 0.5
        x = evidence.sample((4,)).repeat(4000, 1)
        bounds = [model.iwae(x, samples=k).reshape(-1, 4) for k in (1, 3, 10, 50)]
    for less, more in pairwise(bounds):
        error = ((less.var(0) + more.var(0)) / len(less)).sqrt()
        assert (more.mean(0) - less.mean(0) > 5 * error).all()
    assert (bounds[-1].mean(0) < evidence.log_prob(x[:4])).all()


@pytest.mark.parametrize(
    "prior",
    [lambda: GaussianMixture(3, 1), lambda: TRIP(3, 1, 4, deviation=1.0), lambda: TRIP(3, 1, 2, boundary="train")],
)
def test_one_component_is_one_gaussian(prior):
    """The Monte Carlo divergence of a prior of one Gaussian is the closed form, on average."""
    torch.manual_seed(1)
    one = prior() if prior is not None else None
    if isinstance(one, TRIP):
        mean, deviation = one.means.squeeze(1), one.deviations.squeeze(1)
    else:
        mean, deviation = one.means[0], one.deviations[0]
    model, _ = linear_gaussian(one)
    x = torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        q = model.posterior(x)
        exact = kl_divergence(q, Independent(Normal(mean.double(), deviation.double()), 1).expand((3,)))
        z = q.sample((20_000,))
        found = q.log_prob(z) - model.prior().log_prob(z)
    error = found.std(0) / len(z) ** 0.5
    assert ((found.mean(0) - exact).abs() < 5 * error).all()


def test_the_control_variate_leaves_the_mean_and_quietens_the_gradient():
    torch.manual_seed(2)
    mean, log_deviation = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64) / 4
    mean.requires_grad_(), log_deviation.requires_grad_()
    p = GaussianMixture(3, 4).double()()
    found = {"with": [], "without": []}
    for _ in range(2000):
        q = Independent(Normal(mean, log_deviation.exp()), 1)
        z = q.rsample()
        log_p = p.log_prob(z)
        for name, kl in (("with", estimated_divergence(q, log_p, z)), ("without", -log_p - q.entropy())):
            slopes = torch.autograd.grad(kl.sum(), [mean, log_deviation], retain_graph=True)
            found[name].append(torch.cat([kl.detach(), *(s.flatten() for s in slopes)]))
    one, other = (torch.stack(values) for values in found.values())
    error = ((one - other).std(0) / 2000**0.5).clamp_min(1e-12)
    assert ((one - other).mean(0).abs() < 5 * error).all()  # 350 numbers: a false alarm once in 5,000
    assert (one.var(0).sum() < other.var(0).sum() / 2).item()


def test_the_divergence_from_the_normal_of_the_batch_is_exact():
    torch.manual_seed(3)
    q = Independent(Normal(torch.randn(50, 3), torch.rand(50, 3) + 0.1), 1)
    r = Independent(Normal(q.mean.mean(0), (q.mean.var(0, correction=0) + q.variance.mean(0)).sqrt()), 1)
    z = q.sample()
    torch.testing.assert_close(estimated_divergence(q, r.log_prob(z), z), kl_divergence(q, r.expand((50,))))


def test_cp_vae_with_one_category_is_equation_15():
    torch.manual_seed(0)
    prior = GaussianMixture(3, 1)
    model = CPVAE(GatedMLP((1, 2, 2), **CPVAE.network_size(3, prior), hidden=(8,)), prior, 3).double().eval()
    with torch.no_grad():
        prior.means.normal_()
        prior.log_deviations.normal_()
        x = torch.rand(4, 1, 2, 2, dtype=torch.float64)
        of_categories, of_latents = model.divergences(*model.posteriors(x))
        p = Independent(Normal(prior.means[0], prior.deviations[0]), 1).expand((4,))
        assert torch.allclose(of_categories, torch.zeros(4, dtype=torch.float64))
        assert torch.allclose(of_latents, kl_divergence(model.posterior(x), p), atol=1e-10)


def cp_vae(prior=None, features=1, categories=3):
    torch.manual_seed(2)
    prior = prior or GaussianMixture(features, categories, mean_scale=0.5)
    count = None if isinstance(prior, GaussianMixture | VampPrior) else categories
    size = CPVAE.network_size(features, prior, count)
    model = CPVAE(GatedMLP((1, 2, 2), **size, hidden=(8,)), prior, features, count).double().eval()
    with torch.no_grad():  # wide posteriors: importance weights of finite variance
        model.given.to_latents.weight[features:] = 0
        model.given.to_latents.bias[features:] = 0.2
    return model


def test_cp_vae_divergences_are_those_of_the_pairs():
    """Equation 8 against a sum over categories of torch's own divergences."""
    model = cp_vae(features=2)
    x = torch.rand(5, 1, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        model.prior.logits.copy_(torch.tensor([0.3, -0.2, 0.1]))
        numbers, q_c = model.posteriors(x)
        p = model.prior()
        found = model.divergences(numbers, q_c)
        each = [
            kl_divergence(model.given(numbers, c), Independent(Normal(m, s), 1).expand((5,)))
            for m, s, c in zip(model.prior.means, model.prior.deviations, torch.eye(3).double(), strict=True)
        ]
    assert torch.allclose(found[0], kl_divergence(q_c, p.mixture_distribution.expand((5,))))
    assert torch.allclose(found[1], (q_c.probs * torch.stack(each, 1)).sum(1))


@pytest.mark.parametrize("prior", [None, lambda: StandardNormal(1), lambda: TRIP(1, 4, 3)])
def test_cp_vae_bounds_against_the_evidence(prior):
    """log p(x) by quadrature over z and a sum over c."""
    model = cp_vae(prior and prior())
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64)
    z = torch.linspace(-12, 12, 8001, dtype=torch.float64)
    with torch.no_grad():
        every = []
        for k in range(3):
            p_c = torch.full((), 1 / 3).log()
            if prior is None:
                log_p = Normal(model.prior.means[k], model.prior.deviations[k]).log_prob(z)
            else:
                log_p = model.prior().log_prob(z.unsqueeze(1))
            c = torch.eye(3, dtype=torch.float64)[k].expand(len(z), 2, -1)
            code = torch.cat([z[:, None, None].expand(-1, 2, 1), c], -1)
            every.append(model.log_likelihood(x, code) + log_p.unsqueeze(1) + p_c)
        exact = torch.cat(every).logsumexp(0) + math.log(float(z[1] - z[0]))
        tight = model.iwae(x, samples=100_000)
        elbo = model.elbo(x.repeat(4000, 1, 1, 1)).reshape(-1, 2)
        single = model.log_weights(x, None, 4000)
    assert torch.allclose(tight, exact, atol=0.02)
    assert (elbo.mean(0) < exact).all()
    error = ((elbo.var(0) + single.var(0)) / 4000).sqrt()
    assert ((elbo.mean(0) - single.mean(0)).abs() < 5 * error).all()


@pytest.mark.parametrize("prior", [StandardNormal, lambda features: GaussianMixture(features, 3)])
def test_hvae_bounds_against_the_evidence(prior):
    """log p(x) by quadrature over both layers."""
    torch.manual_seed(3)
    model = HVAE(GatedMLP((1, 2, 2), **HVAE.network_size(1), hidden=(8,)), prior(1), 1, hidden=8).double().eval()
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64)
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    step = float(grid[1] - grid[0])
    with torch.no_grad():
        for parameter in model.lower_prior.parameters():
            parameter.mul_(1.5)
        z1, z2 = (axis.reshape(-1, 1) for axis in torch.meshgrid(grid, grid, indexing="ij"))
        log_p = model.given_upper(z2).log_prob(z1) + model.prior().log_prob(z2)
        code = torch.cat([z1, z2], -1).unsqueeze(1).expand(-1, 2, -1)
        exact = (model.log_likelihood(x, code) + log_p.unsqueeze(1)).logsumexp(0) + 2 * math.log(step)
        tight = model.iwae(x, samples=50_000)
        elbo = model.elbo(x.repeat(4000, 1, 1, 1)).reshape(-1, 2)
        single = model.log_weights(x, None, 4000)
    assert torch.allclose(tight, exact, atol=0.05)
    assert (elbo.mean(0) < exact).all()
    error = ((elbo.var(0) + single.var(0)) / 4000).sqrt()
    assert ((elbo.mean(0) - single.mean(0)).abs() < 5 * error).all()


def test_the_decomposition_of_the_divergence():
    """Equation 13: the information is that of a mixture, zero if all posteriors are one; the terms add up."""
    model = cp_vae(features=2)
    x = torch.rand(1, 1, 2, 2, dtype=torch.float64)
    same = model.decompose(x.expand(50, -1, -1, -1))
    assert abs(same["information"]) < 1e-9
    found = model.decompose(torch.rand(300, 1, 2, 2, dtype=torch.float64))
    assert 0 < found["information"] < math.log(300)
    total = found["information"] + found["mismatch"] - found["entropy"] + math.log(3)
    assert total == pytest.approx(found["divergence"])


def test_decomposed_information_of_posteriors_far_apart_is_the_log_of_their_number():
    model = cp_vae(features=1)

    class Apart(nn.Module):
        def forward(self, x):
            place = 100 * torch.arange(len(x), dtype=x.dtype).unsqueeze(1)
            return torch.cat([place, torch.zeros(len(x), 4, dtype=x.dtype)], 1)

    model.network.encoder = Apart()
    with torch.no_grad():
        model.given.to_latents.weight.copy_(torch.eye(2))
        model.given.gate.weight.zero_()
    assert model.decompose(torch.rand(20, 1, 2, 2, dtype=torch.float64))["information"] == pytest.approx(math.log(20))


def test_vae_with_a_vamp_prior_is_the_mixture_of_its_posteriors():
    torch.manual_seed(0)
    prior = VampPrior((1, 2, 2), 4)
    model = VAE(MLP((1, 2, 2), 3, hidden=(8,)), prior).double().train()
    x = torch.rand(10, 1, 2, 2, dtype=torch.float64)
    model.elbo(x)  # batch statistics of the data
    before = {name: value.clone() for name, value in model.network.named_buffers()}
    z = torch.randn(5, 3, dtype=torch.float64)
    found = prior().log_prob(z)
    # the pseudo-inputs are no data: they leave the statistics alone
    assert all(torch.equal(value, before[name]) for name, value in model.network.named_buffers())
    assert model.network.encoder.training
    q = model.eval().posterior(prior.pseudo_inputs.clamp(0, 1))
    assert torch.allclose(found, q.log_prob(z.unsqueeze(1)).logsumexp(1) - math.log(4))
