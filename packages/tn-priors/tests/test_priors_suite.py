"""The conformance suite over the priors of this package, zuko's, and a flow on a tensor ring."""

import pytest
import torch
import zuko
from trip_oracle import Dense

from tn_priors import (
    TRIP,
    TTLP,
    Categorical,
    Continuous,
    Flow,
    FullGaussianMixture,
    GaussianMixture,
    StandardNormal,
    VampPrior,
)
from tn_priors.testing import LabelledPriorSuite, PriorSuite


class Fixed:
    """Nothing to train."""

    def test_nothing_is_trainable(self):
        prior = self.build()
        assert not any(p.requires_grad for p in prior.parameters())
        assert not prior().log_prob(prior().sample()).requires_grad


class TestStandardNormal(Fixed, PriorSuite):
    def make(self):
        return StandardNormal(3)

    def oracle(self, prior, z):
        dense = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
        return dense.log_prob(z)


class TestGaussianMixture(PriorSuite):
    def make(self):
        return GaussianMixture(3, 4, mean_scale=2.0)

    def oracle(self, prior, z):
        parts = [
            torch.distributions.MultivariateNormal(m, torch.diag(d**2)).log_prob(z)
            for m, d in zip(prior.means, prior.deviations, strict=True)
        ]
        return torch.logsumexp(torch.stack(parts, -1) + prior.logits.log_softmax(-1), -1)


class TestUniformGaussianMixture(TestGaussianMixture):
    def make(self):
        return GaussianMixture(3, 4, weights="uniform", mean_scale=2.0)


class TestFixedGaussianMixture(Fixed, TestGaussianMixture):
    def make(self):
        return GaussianMixture(2, 3, learnable=False)


class TestFullGaussianMixture(PriorSuite):
    def make(self):
        prior = FullGaussianMixture(3, 4)
        with torch.no_grad():
            prior.means.normal_(0, 2)
            prior.roots.normal_(0, 0.5)
        return prior

    def oracle(self, prior, z):
        roots = prior.roots.tril(-1) + prior.roots.diagonal(dim1=-2, dim2=-1).exp().diag_embed()
        parts = [
            torch.distributions.MultivariateNormal(m, r @ r.T).log_prob(z)
            for m, r in zip(prior.means, roots, strict=True)
        ]
        return torch.logsumexp(torch.stack(parts, -1) + prior.logits.log_softmax(-1), -1)


class TestVampPrior(PriorSuite):
    """With a posterior that depends on all of a pseudo-input."""

    def make(self):
        prior = VampPrior((4,), 3, noise=0.3)
        prior.bind(self.posterior)
        return prior

    @staticmethod
    def posterior(x):
        normal = torch.distributions.Normal(3 * x[..., :2] - 1, 0.2 + x[..., 2:])
        return torch.distributions.Independent(normal, 1)

    def build(self, seed=None):
        prior = super().build(seed)
        with torch.no_grad():  # inside [0, 1], where the pseudo-inputs have a gradient
            prior.pseudo_inputs.clamp_(0.05, 0.95)
        return prior

    def oracle(self, prior, z):
        p = self.posterior(prior.pseudo_inputs)
        return p.log_prob(z.unsqueeze(1)).logsumexp(1) - torch.log(torch.tensor(3.0).double())


class TestTRIP(PriorSuite):
    def make(self):
        return TRIP(3, 4, 3)

    def oracle(self, prior, z):
        dense = Dense(prior)
        return torch.stack([dense.weigh(row).sum().log() for row in z])


class TestTRIPFromRandomCores(PriorSuite):
    def make(self):
        return TRIP(2, 3, 3, start="random", mean_range=1.0, deviation=0.3)


class TestTTLP(TestTRIP):
    def make(self):
        return TTLP(3, 4, 3)


class TestFixedTRIP(Fixed, PriorSuite):
    def make(self):
        return TRIP(3, 3, 2, learnable=False)


class TestTRIPOfOneLatent(PriorSuite):
    def make(self):
        return TRIP(1, 4, 3)


class TestTRIPWithLabels(LabelledPriorSuite):
    def make(self):
        return TRIP(3, 3, 4, labels=[3, Categorical(2)])


class TestTTLPWithLabels(LabelledPriorSuite):
    def make(self):
        return TTLP(2, 3, 4, labels=[4])


class TestTRIPWithContinuousLabels(LabelledPriorSuite):
    def make(self):
        return TRIP(2, 3, 4, labels=[Continuous(3, -1.0, 2.0), 3])


class TestFixedTRIPWithLabels(Fixed, LabelledPriorSuite):
    def make(self):
        return TRIP(2, 3, 3, labels=[2, Continuous(2)], learnable=False)


class TestNSF(PriorSuite):
    def make(self):
        return zuko.flows.NSF(2, bins=4, transforms=2, hidden_features=(8,))


class TestMAF(PriorSuite):
    def make(self):
        return zuko.flows.MAF(3, transforms=2, hidden_features=(8,))


class TestNICE(PriorSuite):
    def make(self):
        return zuko.flows.NICE(3, transforms=2, hidden_features=(8,))


class TestFlowOnStandardNormal(PriorSuite):
    """Coupling: the other kinds are below."""

    def make(self):
        return Flow(3, StandardNormal(3), "RealNVP", transforms=2, hidden=(8,))


class TestFlowOnGaussianMixture(PriorSuite):
    def make(self):
        return Flow(2, GaussianMixture(2, 3), "MAF", transforms=2, hidden=(8,))


class TestFlowOnTRIP(PriorSuite):
    def make(self):
        return Flow(2, TRIP(2, 3, 3), "NSF", transforms=2, hidden=(8,))


class TestFlowOnTRIPWithLabels(LabelledPriorSuite):
    def make(self):
        return Flow(2, TRIP(2, 3, 4, labels=[3, Categorical(2)]), "NSF", transforms=1, hidden=(8,))


class TestFlowOnTTLPWithContinuousLabels(LabelledPriorSuite):
    def make(self):
        return Flow(2, TTLP(2, 3, 4, labels=[2, Continuous(2)]), "MAF", transforms=1, hidden=(8,))


class TestFlowOnAFlow(PriorSuite):
    def make(self):
        return Flow(2, Flow(2, StandardNormal(2), "MAF", transforms=1, hidden=(8,)), transforms=1, hidden=(8,))


class TestFlowOnABaseWithoutPaths(PriorSuite):
    def make(self):
        return Flow(2, zuko.mixtures.GMM(2, components=3), "MAF", transforms=1, hidden=(8,))


class TestGMM(PriorSuite):
    def make(self):
        return zuko.mixtures.GMM(2, components=3)


class TestZukoFlowOnTRIP(PriorSuite):
    """A normalising flow whose base is a tensor ring."""

    def make(self):
        return zuko.lazy.Flow(zuko.flows.MAF(2, transforms=1, hidden_features=(8,)).transform, TRIP(2, 3, 3))


class Broken(zuko.lazy.LazyDistribution):
    """A density that is too large by a factor, whose samples are too wide, and whose gradient is cut."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.mean = torch.nn.Parameter(torch.zeros(2))

    def forward(self, c=None):
        fault = self.fault

        class Law(torch.distributions.Independent):
            def log_prob(self, value):
                return super().log_prob(value) + (0.1 if fault == "mass" else 0)

            def rsample(self, sample_shape=()):
                z = super().rsample(torch.Size(sample_shape))
                if fault == "path":
                    return z + z - z.detach()
                return z

            def sample(self, sample_shape=()):
                with torch.no_grad():
                    return super().rsample(torch.Size(sample_shape)) * (1.1 if fault == "samples" else 1)

        mean = self.mean.detach() if fault == "gradient" else self.mean
        return Law(torch.distributions.Normal(mean, torch.ones_like(self.mean)), 1)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("mass", "test_density_integrates_to_one"),
        ("samples", "test_samples_follow_the_density"),
        ("samples", "test_mean_and_variance_if_offered_are_those_of_samples"),
        ("path", "test_reparameterised_samples_follow_the_parameters"),
        ("gradient", "test_every_parameter_has_a_finite_gradient"),
    ],
)
def test_the_suite_catches(fault, law):
    """A suite is worth what it rejects."""

    class Suite(PriorSuite):
        def make(self):
            return Broken(fault)

    with pytest.raises((AssertionError, RuntimeError)):
        getattr(Suite(), law)()


@pytest.mark.parametrize(
    "law",
    [
        "test_density_integrates_to_one",
        "test_samples_follow_the_density",
        "test_mean_and_variance_if_offered_are_those_of_samples",
        "test_reparameterised_samples_follow_the_parameters",
        "test_every_parameter_has_a_finite_gradient",
    ],
)
def test_the_suite_accepts_the_same_prior_without_a_fault(law):
    class Suite(PriorSuite):
        def make(self):
            return Broken("")

    getattr(Suite(), law)()
