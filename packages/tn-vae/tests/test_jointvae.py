"""JointVAE: its bounds, its capacities."""

import math

import pytest
import torch

from tn_priors import StandardNormal
from tn_vae import MLP, JointVAE

SHAPE = (1, 2, 2)


def model(features=1, categories=3, **more):
    torch.manual_seed(0)
    pair = MLP(SHAPE, features + categories, outputs=2 * features + categories, hidden=(32,))
    return JointVAE(pair, StandardNormal(features), features, categories, **more).eval()


def log_evidence(m, x):
    """By quadrature over the one continuous latent, and a sum over the categories."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64).unsqueeze(-1)
    found = []
    for c in torch.eye(m.categories).double():
        code = torch.cat([z, c.expand(len(z), -1)], -1).unsqueeze(1).expand(-1, len(x), -1)
        joint = m.prior().log_prob(z).unsqueeze(-1) - math.log(m.categories)
        found.append((m.log_likelihood(x, code) + joint).logsumexp(0) + math.log(float(z[1] - z[0])))
    return torch.stack(found).logsumexp(0)


@torch.no_grad()
def test_bounds_against_the_evidence():
    m = model(likelihood="gaussian", deviation=0.5).double()
    x = torch.rand(2, *SHAPE).double()
    exact = log_evidence(m, x)
    many = x.repeat(4000, 1, 1, 1)
    elbo = m.elbo(many).reshape(4000, 2)
    one = m.iwae(many, samples=1).reshape(4000, 2)
    assert ((elbo.mean(0) - one.mean(0)).abs() < 5 * (elbo.var(0) + one.var(0)).sqrt() / 4000**0.5).all()
    assert (elbo.mean(0) < exact).all()
    torch.testing.assert_close(m.iwae(x, samples=100_000), exact, rtol=0, atol=0.02)


def test_the_loss_holds_the_divergences_at_their_capacities():
    m = model(pressure=7.0, capacity=2.0, discrete_capacity=0.5, capacity_steps=1)
    x = torch.rand(8, *SHAPE)
    for step, share in ((0, 0.0), (5, 1.0)):
        m._fabric = None
        type(m).global_step = property(lambda _, step=step: step)
        try:
            loss, found = m.objective(x, None)
        finally:
            del type(m).global_step
        away = (found["divergence"] - 2 * share).abs() + (found["divergence_categories"] - 0.5 * share).abs()
        torch.testing.assert_close(loss, 7 * away - found["reconstruction"])
    assert model(discrete_capacity=9.0).discrete_capacity == pytest.approx(math.log(3))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"categories": 0}, "categories"),
        ({"capacity_steps": 0}, "capacity_steps"),
        ({"temperature": 0.0}, "temperature"),
        ({"capacity": -1.0}, "capacity"),
        ({"pressure": -1.0}, "pressure"),
    ],
)
def test_bad_arguments(more, message):
    with pytest.raises(ValueError, match=message):
        model(**more)
    with pytest.raises(ValueError, match="labels"):
        model().sample(3, torch.tensor([1]))
