"""A variational autoencoder over latents, as a prior."""

import math

import pytest
import torch

from tn_vae import MLP, VAE, LatentVAE


def ring(count):
    """Latents on a circle in a plane: not what a normal is like."""
    angle = 2 * math.pi * torch.rand(count)
    return torch.stack([3 * angle.cos() + 5, 3 * angle.sin(), angle.cos()], 1) + 0.05 * torch.randn(count, 3)


def test_it_follows_latents_that_do_not_fill_their_space():
    torch.manual_seed(0)
    prior = LatentVAE(3, hidden=64)
    z = ring(4000)
    before = prior.elbo(z).mean()
    prior.fit(z, steps=4000)
    assert prior.elbo(z).mean() > before + 3
    drawn = prior().sample((2000,))
    radius = ((drawn[:, 0] - 5).square() + drawn[:, 1].square()).sqrt()
    assert ((radius - 3).abs() < 0.6).double().mean() > 0.85  # of a normal with the same covariance: a quarter
    torch.testing.assert_close(drawn.mean(0), z.mean(0), rtol=0, atol=0.3)


def test_the_bound_is_below_the_evidence():
    """Where the decoder is linear the evidence is a normal's; the mean of 4,000 bounds is below it."""
    torch.manual_seed(0)
    prior = LatentVAE(2, hidden=16).double()
    with torch.no_grad():
        for parameter in prior.decoder.parameters():
            parameter.zero_()
        prior.log_gamma.fill_(-0.3)
        prior.centre.copy_(torch.tensor([1.0, -2.0]))
        prior.scale.copy_(torch.tensor([0.5, 2.0]))
        z = torch.randn(1, 2).double()
        deviation = prior.scale * math.exp(-0.3)
        evidence = torch.distributions.Normal(prior.centre, deviation).log_prob(z).sum()
        bounds = prior.elbo(z.expand(4000, -1))
        assert bounds.mean() < evidence + 1e-9
        for parameter in prior.encoder[-1].parameters():  # q(u) is the prior: the bound is tight
            parameter.zero_()
        torch.testing.assert_close(prior.elbo(z), evidence.reshape(1))


def test_it_is_a_prior_of_models():
    torch.manual_seed(0)
    model = VAE(MLP((1, 2, 2), 3, hidden=(16,)), LatentVAE(3, hidden=16), fit_prior="afterwards").eval()
    assert model.sample(5).shape == (5, 1, 2, 2)
    assert LatentVAE(3)().sample((2, 5)).shape == (2, 5, 3)
    with pytest.raises(NotImplementedError):
        LatentVAE(3)().log_prob(torch.zeros(3))
    with pytest.raises(ValueError, match="labels"):
        LatentVAE(3)(torch.zeros(1))
    with pytest.raises(ValueError, match="hidden"):
        LatentVAE(3, hidden=0)
    with pytest.raises(ValueError, match="finite"):
        LatentVAE(3).fit(torch.full((5, 3), torch.nan))
