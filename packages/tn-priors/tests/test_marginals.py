"""Distribution functions of single dimensions and covariances, of torch's distributions and ours."""

import pytest
import torch
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

from tn_priors import TRIP, Flow, FullGaussianMixture, GaussianMixture, StandardNormal
from tn_priors.marginals import covariance, has_marginals, marginal_cdf


def cases():
    torch.manual_seed(0)
    root = torch.randn(3, 3).double()
    trip = TRIP(3, components=4, rank=3, start="random", mean_range=3.0).double()
    mixture = GaussianMixture(3, 4, mean_scale=2.0).double()
    full = FullGaussianMixture(3, 4).double()
    with torch.no_grad():
        full.means.normal_(0, 2)
        full.roots.normal_(0, 0.5)
    return {
        "full": full(),
        "independent": Independent(Normal(torch.randn(3).double(), torch.rand(3).double() + 0.5), 1),
        "multivariate": MultivariateNormal(torch.randn(3).double(), root @ root.T + torch.eye(3).double()),
        "standard": StandardNormal(3).double()(),
        "mixture": mixture(),
        "chain": trip(),
    }


@pytest.mark.parametrize("name", cases())
@torch.no_grad()
def test_they_are_those_of_samples(name):
    """Every share and every covariance within five standard errors, 18 comparisons a distribution."""
    p = cases()[name]
    assert has_marginals(p)
    torch.manual_seed(1)
    z, n = p.sample((100_000,)), 100_000
    away = z - p.mean
    products = away.unsqueeze(-1) * away.unsqueeze(-2)
    assert ((products.mean(0) - covariance(p)).abs() < 5 * products.std(0) / n**0.5).all()
    for value in p.mean + p.stddev * torch.tensor([[-1.0], [0.0], [2.0]]).double():
        share, expected = (z <= value).double().mean(0), marginal_cdf(p, value)
        assert ((share - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()


@pytest.mark.parametrize("name", cases())
def test_shapes_and_batches(name):
    p = cases()[name].expand((2, 5))
    assert covariance(p).expand(2, 5, 3, 3).shape == (2, 5, 3, 3)
    value = torch.zeros(4, 2, 5, 3).double()
    assert marginal_cdf(p, value).shape == (4, 2, 5, 3)


def test_where_there_are_none():
    for p in (Flow(3, StandardNormal(3), kind="RealNVP")(), Independent(Laplace(torch.zeros(3), torch.ones(3)), 1)):
        assert not has_marginals(p)
        for function in (covariance, lambda p: marginal_cdf(p, torch.zeros(3))):
            with pytest.raises(ValueError, match="closed form"):
                function(p)


def test_covariance_of_a_chain_has_gradients():
    torch.manual_seed(0)
    prior = TRIP(3, components=4, rank=3, start="random", mean_range=3.0).double()
    prior().covariance.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in prior.parameters())


def test_covariance_of_many_latents_in_single_precision():
    torch.manual_seed(0)
    prior = TRIP(100, components=10, rank=20, mean_range=5.0)
    with torch.no_grad():
        single, double = prior().covariance, prior.double()().covariance
    assert (single - double).abs().max() < 1e-4 * double.diagonal().max()
