"""CascadeVAE: its bounds, the assignment of categories, the weights of its latents."""

import itertools
import math

import pytest
import torch

from tn_priors import GaussianMixture, StandardNormal
from tn_vae import MLP, CascadeVAE
from tn_vae.cascadevae import assignment

SHAPE = (1, 2, 2)


def model(features=1, categories=3, prior=StandardNormal, **more):
    torch.manual_seed(0)
    pair = MLP(SHAPE, features + categories, outputs=2 * features, hidden=(32,))
    return CascadeVAE(pair, prior(features), features, categories, **more).eval()


@pytest.mark.parametrize("penalty", [0.0, 0.3, 100.0])
def test_assignment_against_all_assignments(penalty):
    torch.manual_seed(1)
    for _ in range(5):
        scores = torch.randn(6, 3)

        def value(c, scores=scores):
            counts = torch.bincount(c, minlength=3)
            shared = (counts * (counts - 1) / 2).sum()
            return float(scores[torch.arange(6), c].sum() - penalty * shared)

        best = max(value(torch.tensor(c)) for c in itertools.product(range(3), repeat=6))
        assert value(assignment(scores, penalty)) == pytest.approx(best, abs=1e-4)
    assert (assignment(scores, 0.0) == scores.argmax(-1)).all()
    assert torch.bincount(assignment(scores, 100.0)).tolist() == [2, 2, 2]


@torch.no_grad()
def test_bounds_against_the_evidence():
    m = model(likelihood="gaussian", deviation=0.5).double()
    x = torch.rand(2, *SHAPE).double()
    # by quadrature over the one continuous latent, and a sum over the categories
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64).unsqueeze(-1)
    exact = []
    for c in range(3):
        code = m.code(z, torch.full((len(z),), c)).unsqueeze(1).expand(-1, 2, -1)
        joint = m.prior().log_prob(z).unsqueeze(-1) - math.log(3)
        exact.append((m.log_likelihood(x, code) + joint).logsumexp(0) + math.log(float(z[1] - z[0])))
    exact = torch.stack(exact).logsumexp(0)
    many = x.repeat(4000, 1, 1, 1)
    elbo, one = m.elbo(many).reshape(4000, 2), m.iwae(many, samples=1).reshape(4000, 2)
    assert ((elbo.mean(0) - one.mean(0)).abs() < 5 * (elbo.var(0) + one.var(0)).sqrt() / 4000**0.5).all()
    assert (elbo.mean(0) < exact).all()
    torch.testing.assert_close(m.iwae(x, samples=50_000), exact, rtol=0, atol=0.02)


def test_latents_open_one_after_the_other():
    m = model(features=3, open_every=10, low_weight=1.0, high_weight=5.0)
    for step, expected in ((0, [1, 5, 5]), (9, [1, 5, 5]), (10, [1, 1, 5]), (20, [1, 1, 1]), (1000, [1, 1, 1])):
        assert m.weights(step).tolist() == expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"categories": 0}, "categories"),
        ({"open_every": 0}, "open_every"),
        ({"open_before": 0}, "open_before"),
        ({"penalty": -1.0}, "penalty"),
        ({"low_weight": -1.0}, "low_weight"),
        ({"prior": GaussianMixture}, "independent normals"),
    ],
)
def test_bad_arguments(more, message):
    with pytest.raises(ValueError, match=message):
        model(**more)
    with pytest.raises(ValueError, match="labels"):
        model().sample(3, torch.tensor([1]))
