"""Flows beyond the suite: the change of variables by hand, labels, fitting, errors."""

import copy
import math

import pytest
import torch
import zuko

from tn_priors import TRIP, TTLP, Continuous, Flow, GaussianMixture, StandardNormal

KINDS = ["NSF", "MAF", "RealNVP"]
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def make(kind="NSF", base=None, features=3):
    """A small flow in float64, away from its start; the data's place and size are not those of the base either."""
    torch.manual_seed(0)
    base = TRIP(features, 3, 4, labels=[3, 2]) if base is None else base
    prior = Flow(features, base, kind, transforms=2, hidden=(8,)).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    prior.transform.transforms[0].set(3 * torch.randn(100, features).double() + 1)
    return prior


def by_hand(prior, z):
    """f(z) and log |det df/dz|, the Jacobian row by row by autograd."""
    f = prior.transform(None)
    slopes = torch.stack([torch.autograd.functional.jacobian(f, row) for row in z])
    return f(z), torch.linalg.slogdet(slopes).logabsdet


@pytest.mark.parametrize("kind", KINDS)
def test_densities_are_those_of_the_base_and_the_jacobian(kind):
    prior = make(kind)
    z = 3 * torch.randn(9, 3).double() + 1
    y = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
    u, log_determinant = by_hand(prior, z)
    base = prior.base
    torch.testing.assert_close(prior().log_prob(z), base().log_prob(u) + log_determinant, **EXACT)
    torch.testing.assert_close(prior(y).log_prob(z), base(y).log_prob(u) + log_determinant, **EXACT)
    torch.testing.assert_close(prior.log_prob_joint(z, y), base.log_prob_joint(u, y) + log_determinant, **EXACT)
    torch.testing.assert_close(prior.log_prob_labels(y), base.log_prob_labels(y), **EXACT)
    for found, expected in zip(prior.label_posteriors(z, y), base.label_posteriors(u, y), strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


def test_labels_known_as_sets_go_to_the_base():
    """Bayes: E[p(set | z) / p(set)] = 1 under p(z), within five standard errors."""
    prior = make("RealNVP")
    y = [torch.tensor([True, True, False]), None]
    assert prior(y).sample((2,)).shape == (2, 3)
    z = prior().sample((20_000,))
    given = prior.label_posteriors(z)[0][:, :2].sum(-1)
    joint = (prior.log_prob_joint(z, y) - prior().log_prob(z)).exp()
    torch.testing.assert_close(joint, given, **EXACT)
    ratio = joint / prior.log_prob_labels(y).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / len(ratio) ** 0.5


def test_labels_of_the_base_are_those_of_the_flow():
    labels = [3, Continuous(2)]
    assert make(base=TTLP(3, 3, 4, labels=labels)).labels == TTLP(3, 3, 4, labels=labels).labels
    for base in (StandardNormal(3), GaussianMixture(3, 2), TRIP(3, 2, 2), zuko.mixtures.GMM(3)):
        prior = make(base=base)
        assert prior.labels == ()
        z = prior().sample((2,))
        torch.testing.assert_close(prior.log_prob_joint(z), prior().log_prob(z), **EXACT)
        assert prior.log_prob_labels(None) == 0
        for refused in (prior, prior.log_prob_labels, lambda y, p=prior: p.log_prob_joint(torch.zeros(3), y)):
            with pytest.raises(ValueError, match="no labels"):
                refused(torch.zeros(2, 1).long())
        with pytest.raises(ValueError, match="no labels"):
            prior.label_posteriors(z)


def test_completion_is_that_of_the_base():
    prior = make()
    z, y = 3 * torch.randn(4, 3).double(), torch.tensor([1, -1])
    found, log_p = prior.complete(z, y)
    assert (found[:, 0] == 1).all()
    best = prior.label_posteriors(z, y)[1].max(-1)
    assert torch.equal(found[:, 1], best.indices)
    torch.testing.assert_close(log_p, best.values.log(), **EXACT)
    assert torch.equal(prior.complete()[0], prior.base.complete()[0])
    with pytest.raises(ValueError, match="no labels"):
        make(base=StandardNormal(3)).complete(z)


def test_expanded_flows():
    p = make()(torch.tensor([[0, -1], [2, 1]]))
    assert p.batch_shape == (2,)
    many = p.expand((5, 2))
    assert (many.batch_shape, many.event_shape) == ((5, 2), (3,))
    assert many.sample((4,)).shape == many.rsample((4,)).shape == (4, 5, 2, 3)
    assert many.log_prob(torch.zeros(3).double()).shape == (5, 2)
    z, log_p = many.rsample_and_log_prob((4,))
    torch.testing.assert_close(log_p, many.log_prob(z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["NSF", "MAF"])
def test_one_latent(kind):
    prior = make(kind, GaussianMixture(1, 3), features=1)
    grid = torch.linspace(-200, 200, 400_001).double()
    mass = torch.trapezoid(prior().log_prob(grid.unsqueeze(1)).exp(), grid)
    assert abs(mass - 1) < 1e-4


def ring(count):
    """A noisy circle far from zero, with the half of it as a label: no base here can bend so."""
    torch.manual_seed(0)
    angle = 2 * math.pi * torch.rand(count)
    z = torch.stack([30 + 8 * angle.cos(), 8 * angle.sin()], 1) + 0.3 * torch.randn(count, 2)
    return z, (angle > math.pi).long().unsqueeze(1)


@pytest.mark.parametrize("kind", KINDS)
def test_fit_bends_the_base(kind):
    """Better on other samples than the base fitted alone, and than the best normal, wherever the data lie."""
    z, _ = ring(4000)
    held = z[2000:]
    prior = Flow(2, GaussianMixture(2, 4), kind, hidden=(32,))
    prior.fit(z[:2000])
    alone = GaussianMixture(2, 4)
    alone.fit(z[:2000])
    assert prior().log_prob(held).mean() > alone().log_prob(held).mean() + 0.1
    normal = Flow(2, StandardNormal(2), kind, hidden=(32,))
    normal.fit(z[:2000])
    best = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov())
    assert normal().log_prob(held).mean() > best.log_prob(held).mean() + 0.3


def test_fit_learns_labels():
    z, y = ring(4000)
    prior = Flow(2, TRIP(2, 8, 8, labels=[2]), "RealNVP", hidden=(16,))
    hidden = torch.where(torch.rand(2000, 1) < 0.5, -1, y[:2000])
    prior.fit(z[:2000], hidden, steps=100)
    found = prior.label_posteriors(z[2000:])[0].argmax(-1)
    assert (found == y[2000:, 0]).double().mean() > 0.9


def test_fit_keeps_what_is_fixed():
    z, _ = ring(500)
    fixed = GaussianMixture(2, 3, learnable=False)
    prior = Flow(2, fixed, transforms=1, hidden=(8,))
    prior.fit(z, steps=0)
    before = copy.deepcopy(prior.base.state_dict())
    torch.manual_seed(0)
    prior.fit(z, steps=0)
    prior_start = prior().log_prob(z).mean()
    assert all(torch.equal(x, before[name]) for name, x in prior.base.state_dict().items())
    assert not any(p.requires_grad for p in prior.base.parameters())
    prior.fit(z, steps=100)
    assert not any(p.requires_grad for p in prior.base.parameters())
    assert prior().log_prob(z).mean() > prior_start

    equal = Flow(2, GaussianMixture(2, 3, weights="uniform"), transforms=1, hidden=(8,))
    equal.fit(z, steps=20)
    assert not equal.base.logits.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": 0},
        {"features": 2},
        {"kind": "Glow"},
        {"transforms": 0},
        {"hidden": ()},
        {"hidden": (8, 0)},
        {"base": GaussianMixture(4)},
    ],
    ids=str,
)
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError):
        Flow(**{"features": 3, "base": StandardNormal(3)} | wrong)


def test_real_nvp_needs_two_latents():
    with pytest.raises(ValueError, match="at least 2"):
        Flow(1, StandardNormal(1), "RealNVP")


def test_latents_that_do_not_fit():
    prior = make()
    for wrong in (torch.zeros(2), torch.zeros(4, 2), torch.tensor(0.0), torch.tensor([0.0, math.nan, 0.0])):
        for function in (prior().log_prob, prior.label_posteriors, prior.log_prob_joint):
            with pytest.raises(ValueError):
                function(wrong.double())


def test_what_cannot_be_fitted():
    prior = Flow(3, StandardNormal(3))
    z = torch.randn(10, 3)
    before = copy.deepcopy(prior.state_dict())
    for arguments in ({"steps": -1}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"y": torch.zeros(10, 1)}):
        with pytest.raises(ValueError):
            prior.fit(z, **arguments)
    for wrong in (z[:1], z[:, :2], z.masked_fill(z > 0, math.nan)):
        with pytest.raises(ValueError):
            prior.fit(wrong)
    with pytest.raises(ValueError, match="as many labels"):
        Flow(3, TRIP(3, 2, 2, labels=[2])).fit(z, torch.zeros(9, 1).long())
    assert all(torch.equal(x, before[name]) for name, x in prior.state_dict().items())
