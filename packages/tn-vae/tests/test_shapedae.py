"""The Kolmogorov-Smirnov-like and the covariance loss: what they are for the prior's own samples, and for others."""

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

from tn_core.training import Items, batches
from tn_priors import TRIP, Flow, FullGaussianMixture, GaussianMixture, StandardNormal
from tn_priors.marginals import covariance
from tn_vae import MLP, ShapedAE
from tn_vae.shapedae import covariance_loss, expected_covariance_loss, expected_ks_loss, ks_loss

SHAPE = (1, 2, 2)


def priors():
    torch.manual_seed(0)
    return {
        "normal": StandardNormal(2),
        "mixture": GaussianMixture(2, 2, separation=5.0, weights="uniform"),
        "ring": TRIP(2, components=4, rank=3, start="random", mean_range=3.0),
    }


@pytest.mark.parametrize("name", priors())
@pytest.mark.parametrize("items", [5, 50, 1000])
@torch.no_grad()
def test_samples_of_the_prior_have_the_expected_losses(name, items):
    """Means over 400 draws, within five standard errors; they fall to zero as the samples grow."""
    p = priors()[name].double()()
    torch.manual_seed(1)
    draws = [p.sample((items,)) for _ in range(400)]
    ks = torch.stack([ks_loss(z, p) for z in draws])
    assert abs(ks.mean() - expected_ks_loss(items)) < 5 * ks.std() / 20
    assert expected_ks_loss(items) < 0.3 / items
    of_covariance = torch.stack([covariance_loss(z, covariance(p)) for z in draws])
    again = expected_covariance_loss(p, items, draws=400)
    assert abs(of_covariance.mean() - again) < 5 * 2**0.5 * of_covariance.std() / 20


@torch.no_grad()
def test_expected_covariance_loss_of_a_normal():
    # S_jj has variance 2 / (n - 1), S_jl 1 / (n - 1): their mean over 3x3 is 4/3 / (n - 1)
    torch.manual_seed(0)
    found = expected_covariance_loss(StandardNormal(3).double()(), 20, draws=20_000)
    assert abs(found - 4 / 3 / 19) < 0.02 * found


OTHERS = {
    "shifted": Independent(Normal(torch.full((2,), 0.3), torch.ones(2)), 1),
    "wider": Independent(Normal(torch.zeros(2), torch.full((2,), 1.3)), 1),
    "narrower": Independent(Normal(torch.zeros(2), torch.full((2,), 0.7)), 1),
    "uniform with the same moments": Independent(Uniform(-(3**0.5) * torch.ones(2), 3**0.5 * torch.ones(2)), 1),
    "two modes with the same moments": GaussianMixture(1, 1),  # made below
}


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_other_marginals_are_seen(name):
    torch.manual_seed(0)
    if name.startswith("two modes"):
        z = 0.3 * torch.randn(2000, 2) + (1 - 0.3**2) ** 0.5 * (2 * torch.randint(2, (2000, 2)) - 1)
    else:
        z = OTHERS[name].sample((2000,))
    assert ks_loss(z, StandardNormal(2)()) > 5 * expected_ks_loss(2000)


@torch.no_grad()
def test_what_marginals_cannot_see_the_covariance_sees():
    torch.manual_seed(0)
    p = StandardNormal(2)()
    z = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]])).sample((2000,))
    assert ks_loss(z, p) < 5 * expected_ks_loss(2000)
    assert covariance_loss(z, covariance(p)) > 20 * expected_covariance_loss(p, 2000)


def test_gradients_are_finite_where_latents_are_tied():
    for z in (torch.zeros(8, 3), torch.randn(4, 3).repeat(2, 1)):
        z.requires_grad_()
        for p in (StandardNormal(3)(), TRIP(3, components=4, rank=2)()):
            (ks_loss(z, p) + covariance_loss(z, covariance(p))).backward()
            assert z.grad.isfinite().all()


def test_latents_by_themselves_come_to_lie_as_the_prior_says():
    torch.manual_seed(0)
    p = GaussianMixture(2, 2, separation=2.0, deviation=0.7, learnable=False)()
    z = torch.randn(500, 2, requires_grad=True)
    optimiser = torch.optim.Adam([z], lr=0.05)
    sigma, of_covariance = covariance(p), expected_covariance_loss(p, 500)
    before = ks_loss(z.detach(), p) / expected_ks_loss(500)
    for _ in range(400):
        optimiser.zero_grad()
        (ks_loss(z, p) / expected_ks_loss(500) + covariance_loss(z, sigma) / of_covariance).backward()
        optimiser.step()
    assert before > 50
    assert ks_loss(z, p) < expected_ks_loss(500)
    assert covariance_loss(z, sigma) < of_covariance


def model(prior=None, **more):
    torch.manual_seed(0)
    prior = GaussianMixture(2, 2, separation=2.0) if prior is None else prior
    return ShapedAE(MLP(SHAPE, 2, outputs=2, hidden=(32,)), prior, **more)


def striped(items=512):
    """Images of two kinds, upper or lower half bright, and their kind."""
    torch.manual_seed(1)
    y = torch.randint(2, (items, 1))
    x = torch.rand(items, *SHAPE) * 0.2
    x[torch.arange(items), 0, y[:, 0]] += 0.7
    return x, y


def train(m, epochs):
    seed_everything(0, verbose=False)
    data = Items(*striped())
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(m, batches(data, 64, seed=0))
    return m.eval()


@pytest.mark.parametrize(
    "prior",
    [None, StandardNormal(2), TRIP(2, components=4, rank=4), GaussianMixture(2, 2, separation=2.0, learnable=False)],
    ids=["mixture", "normal", "ring", "fixed"],
)
def test_training_reconstructs_and_samples(prior):
    x, _ = striped()
    m = train(model(prior), 20)
    with torch.no_grad():
        assert (m.reconstruct(x) - x).square().mean() < 0.5 * x.var(0).mean()
        z, p = m.encode(x), m.prior()
        assert ks_loss(z, p) < 0.1 * ks_loss(torch.zeros_like(z), p)
        assert m.sample(5).shape == (5, *SHAPE)
        assert 0.3 < m.running_error / (m.reconstruct(x) - x).square().mean() < 3


def test_components_are_clusters():
    x, y = striped()
    m = train(model(learning_rate=3e-3), 40)
    assert m.clusters == 2
    assigned = m.assign(x)
    right = (assigned == y[:, 0]).double().mean()
    assert max(right, 1 - right) > 0.95
    assert model(FullGaussianMixture(2, 3)).eval().sample(5, cluster=2).shape == (5, *SHAPE)
    for k in range(2):
        assert (m.assign(m.sample(200, cluster=k)) == k).double().mean() > 0.8


def test_the_prior_can_be_fitted_afterwards():
    m = train(model(GaussianMixture(2, 3), fit_prior=True, ks_weight=0.0, covariance_weight=0.0), 5)
    z = m.encode(striped()[0])
    torch.testing.assert_close(m.prior().mean, z.mean(0), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prior": Flow(2, StandardNormal(2), kind="RealNVP")}, "closed form"),
        ({"reconstruction_weight": 0.0}, "positive"),
        ({"ks_weight": -1.0}, "negative"),
        ({"covariance_weight": -1.0}, "negative"),
        ({"learning_rate": 0.0}, "positive"),
        ({"prior": StandardNormal(2), "fit_prior": True}, "method fit"),
    ],
)
def test_bad_arguments(more, message):
    with pytest.raises(ValueError, match=message):
        model(**more)


def test_what_it_cannot_do():
    x, _ = striped(8)
    with pytest.raises(ValueError, match="latents, but the prior has 3"):
        model(StandardNormal(3)).objective(x, None)
    with pytest.raises(ValueError, match="components"):
        model(StandardNormal(2)).assign(x)
    assert not hasattr(model(StandardNormal(2)), "clusters")
    with pytest.raises(ValueError, match="labels"):
        model().sample(3, torch.tensor([1]))
