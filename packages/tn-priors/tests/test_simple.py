"""The baselines beyond the suite: fitting, posteriors, errors."""

import math

import pytest
import torch

from tn_priors import FullGaussianMixture, GaussianMixture, StandardNormal

CENTRES = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])
DEVIATIONS = torch.tensor([[1.0, 0.5], [0.3, 1.0], [0.5, 0.2]])


def draw(count):
    torch.manual_seed(0)
    c = torch.multinomial(WEIGHTS, count, replacement=True)
    return CENTRES[c] + DEVIATIONS[c] * torch.randn(count, 2), c


def test_fit_finds_the_mixture():
    """Well separated: each estimate within five standard errors of the truth, 15 comparisons."""
    count = 20_000
    z, _ = draw(count)
    prior = GaussianMixture(2, 3)
    prior.fit(z)
    match = torch.cdist(CENTRES, prior.means.detach()).argmin(1)
    assert sorted(match.tolist()) == [0, 1, 2]
    weights = prior.logits.softmax(0)[match]
    assert ((weights - WEIGHTS).abs() < 5 * (WEIGHTS * (1 - WEIGHTS) / count).sqrt()).all()
    error = DEVIATIONS / (WEIGHTS.unsqueeze(1) * count).sqrt()
    assert ((prior.means[match] - CENTRES).abs() < 5 * error).all()
    assert ((prior.deviations[match] - DEVIATIONS).abs() < 5 * error / math.sqrt(2)).all()


def test_fit_is_no_worse_than_the_truth_and_repeatable():
    z, _ = draw(2000)
    first, second = GaussianMixture(2, 3), GaussianMixture(2, 3)
    first.fit(z)
    second.fit(z)
    assert torch.equal(first().log_prob(z), second().log_prob(z))
    truth = GaussianMixture(2, 3)
    with torch.no_grad():
        truth.logits.copy_(WEIGHTS.log())
        truth.means.copy_(CENTRES)
        truth.log_deviations.copy_(DEVIATIONS.log())
    assert first().log_prob(z).mean() >= truth().log_prob(z).mean()


def test_a_full_mixture_is_fitted_to_turned_gaussians():
    """Each mean and covariance within five standard errors of the truth, 14 comparisons; c is found from z."""
    torch.manual_seed(0)
    roots = torch.tensor([[[1.0, 0.0], [0.9, 0.3]], [[0.5, 0.0], [-0.6, 0.4]]]).double()
    centres, count = torch.tensor([[-4.0, 0.0], [4.0, 1.0]]).double(), 10_000
    c = torch.arange(2).repeat_interleave(count)
    z = centres[c] + (roots[c] @ torch.randn(2 * count, 2, 1).double()).squeeze(-1)
    prior = FullGaussianMixture(2, 2).double()
    prior.fit(z)
    match = torch.cdist(centres, prior.means.detach()).argmin(1)
    found = prior().component_distribution
    truth = roots @ roots.mT
    variances = truth.diagonal(dim1=1, dim2=2)
    assert ((found.loc[match] - centres).abs() < 5 * (variances / count).sqrt()).all()
    error = ((truth**2 + variances.unsqueeze(1) * variances.unsqueeze(2)) / count).sqrt()
    assert ((found.covariance_matrix[match] - truth).abs() < 5 * error).all()
    assert (prior().component_posterior(z).argmax(1) == match[c]).double().mean() > 0.999
    with pytest.raises(ValueError, match="at least 3"):
        FullGaussianMixture(2, 3).fit(z[:2].float())
    with pytest.raises(ValueError, match="components"):
        FullGaussianMixture(2, 0)


def test_fit_keeps_what_is_learnable():
    z, _ = draw(500)
    for learnable in (True, False):
        prior = GaussianMixture(2, 3, learnable=learnable)
        prior.fit(z)
        assert all(p.requires_grad == learnable for p in prior.parameters())
        assert prior().log_prob(z).mean() > -4


def test_uniform_weights_stay_so():
    """No optimiser finds them, fitting keeps them, and the state is saved under the same names."""
    z, _ = draw(2000)
    prior, learned = GaussianMixture(2, 3, weights="uniform"), GaussianMixture(2, 3)
    assert set(prior.state_dict()) == set(learned.state_dict())
    assert [name for name, _ in prior.named_parameters()] == ["means", "log_deviations"]
    before = prior().log_prob(z).mean()
    prior.fit(z)
    assert not prior.logits.any()
    assert before < prior().log_prob(z).mean() < fitted_likelihood(z)
    for name, value in prior.state_dict().items():
        learned.state_dict()[name].copy_(value)
    torch.testing.assert_close(learned().log_prob(z), prior().log_prob(z))


def fitted_likelihood(z):
    """The likelihood with weights that are learned, as the data need them."""
    prior = GaussianMixture(2, 3)
    prior.fit(z)
    return prior().log_prob(z).mean()


def test_uniform_fit_finds_the_mixture():
    """Equal weights in truth: each estimate within five standard errors of it, 12 comparisons."""
    torch.manual_seed(0)
    count = 20_000
    c = torch.randint(3, (count,))
    z = CENTRES[c] + DEVIATIONS[c] * torch.randn(count, 2)
    prior = GaussianMixture(2, 3, weights="uniform")
    prior.fit(z)
    match = torch.cdist(CENTRES, prior.means.detach()).argmin(1)
    assert sorted(match.tolist()) == [0, 1, 2]
    error = DEVIATIONS / (count / 3) ** 0.5
    assert ((prior.means[match] - CENTRES).abs() < 5 * error).all()
    assert ((prior.deviations[match] - DEVIATIONS).abs() < 5 * error / math.sqrt(2)).all()


def test_uniform_fit_cannot_be_made_better():
    """No small step of means or deviations raises the likelihood: overlapping Gaussians, the gradient is zero."""
    torch.manual_seed(0)
    z = torch.cat([torch.randn(3000, 2), torch.randn(1000, 2) + 2]).double()
    prior = GaussianMixture(2, 2, weights="uniform").double()
    prior.fit(z)
    prior().log_prob(z).mean().backward()
    assert all(parameter.grad.abs().max() < 0.02 for parameter in prior.parameters())


def test_component_posterior_is_bayes():
    torch.manual_seed(0)
    prior = GaussianMixture(2, 4, mean_scale=2.0).double()
    z = torch.randn(3, 5, 2).double()
    found = prior().component_posterior(z)
    assert found.shape == (3, 5, 4)
    joint = torch.stack(
        [
            torch.distributions.Normal(m, d).log_prob(z).sum(-1).exp() * w
            for m, d, w in zip(prior.means, prior.deviations, prior.logits.softmax(0), strict=True)
        ],
        -1,
    )
    torch.testing.assert_close(found, joint / joint.sum(-1, keepdim=True), rtol=1e-10, atol=1e-10)
    assert prior().expand((5,)).component_posterior(z).shape == (3, 5, 4)


def test_covariance_and_marginal_distribution_functions():
    torch.manual_seed(0)
    prior = GaussianMixture(3, 4, mean_scale=2.0).double()
    with torch.no_grad():
        prior.logits.normal_()
        prior.log_deviations.normal_()
    p, weights, z = prior(), prior.logits.softmax(0), torch.randn(5, 3).double()
    second = sum(
        w * (d.square().diag() + torch.outer(m, m))
        for w, m, d in zip(weights, prior.means, prior.deviations, strict=True)
    )
    torch.testing.assert_close(p.covariance, second - torch.outer(p.mean, p.mean), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(p.covariance.diagonal(), p.variance, rtol=1e-10, atol=1e-10)
    below = sum(
        w * torch.distributions.Normal(m, d).cdf(z)
        for w, m, d in zip(weights, prior.means, prior.deviations, strict=True)
    )
    torch.testing.assert_close(p.marginal_cdf(z), below, rtol=1e-10, atol=1e-10)
    many = p.expand((2, 5))
    assert many.covariance.shape == (2, 5, 3, 3)
    torch.testing.assert_close(many.marginal_cdf(z)[1], below)


def test_expanded_mixtures():
    prior = GaussianMixture(3, 4)
    p = prior().expand((2, 5))
    assert (p.batch_shape, p.event_shape) == ((2, 5), (3,))
    assert p.sample((7,)).shape == p.rsample((7,)).shape == (7, 2, 5, 3)
    assert p.log_prob(torch.zeros(3)).shape == (2, 5)
    assert p.mean.shape == p.variance.shape == (2, 5, 3)


def test_samples_come_from_their_components():
    """Shares of three separate components, each within five standard errors of its weight."""
    prior = GaussianMixture(2, 3)
    prior.fit(draw(5000)[0])
    z = prior().sample((20_000,))
    chosen = prior().component_posterior(z).argmax(-1)
    share = torch.nn.functional.one_hot(chosen, 3).double().mean(0)
    weights = prior.logits.detach().softmax(0).double()
    assert ((share - weights).abs() < 5 * (weights * (1 - weights) / 20_000).sqrt()).all()


def test_means_start_apart_and_deviations_where_told():
    torch.manual_seed(0)
    prior = GaussianMixture(50, 200, mean_scale=3.0, deviation=0.5)
    # 10,000 draws: the standard error of the deviation is 3 / sqrt(20,000)
    assert abs(prior.means.std().item() - 3) < 5 * 3 / math.sqrt(20_000)
    torch.testing.assert_close(prior.deviations, torch.full((200, 50), 0.5))


def test_means_start_separated_where_told():
    means = GaussianMixture(5, 4, separation=10.0).means.detach()
    apart = torch.pdist(means)
    torch.testing.assert_close(apart, torch.full_like(apart, 10 * math.sqrt(2)))
    torch.testing.assert_close(means.norm(dim=1), torch.full((4,), 10.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": 0},
        {"components": 0},
        {"weights": "equal"},
        {"mean_scale": -1.0},
        {"mean_scale": math.nan},
        {"separation": 0.0},
        {"separation": math.nan},
        {"separation": 1.0, "components": 4},
        {"deviation": 0.0},
        {"deviation": -1.0},
        {"deviation": math.nan},
    ],
    ids=str,
)
def test_numbers_out_of_range(wrong):
    with pytest.raises(ValueError):
        GaussianMixture(**{"features": 3} | wrong)


def test_errors():
    with pytest.raises(ValueError, match="features"):
        StandardNormal(0)
    for prior in (StandardNormal(3), GaussianMixture(3)):
        assert prior.labels == ()
        with pytest.raises(ValueError, match="labels"):
            prior(torch.zeros(5, 0))
        with pytest.raises(ValueError):
            prior().log_prob(torch.full((3,), math.nan))
    with pytest.raises(ValueError):
        GaussianMixture(3)().component_posterior(torch.full((3,), math.nan))


@pytest.mark.parametrize(
    "z",
    [torch.zeros(100, 4), torch.zeros(100), torch.zeros(9, 3), torch.full((100, 3), math.nan), torch.zeros(0, 3)],
    ids=["shape", "1d", "few", "nan", "empty"],
)
def test_latents_that_cannot_be_fitted(z):
    with pytest.raises(ValueError):
        GaussianMixture(3, 10).fit(z)


def test_labels_cannot_be_fitted():
    with pytest.raises(ValueError, match="labels"):
        GaussianMixture(3, 2).fit(torch.randn(10, 3), torch.zeros(10, 1))
