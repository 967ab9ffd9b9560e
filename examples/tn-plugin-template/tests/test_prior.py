"""The prior obeys the laws of every prior: the conformance suite of tn-priors, and what the suite cannot know."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from tn_plugin_template.prior import ClassGaussian
from tn_priors import Categorical, Continuous
from tn_priors.testing import LabelledPriorSuite, PriorSuite


class TestWithoutLabels(PriorSuite):
    def make(self) -> ClassGaussian:
        return ClassGaussian(3)

    def oracle(self, prior: ClassGaussian, z: Tensor) -> Tensor:
        return MultivariateNormal(prior.means[0], torch.diag(prior.log_deviations[0].exp() ** 2)).log_prob(z)


class TestOneLabel(LabelledPriorSuite):
    def make(self) -> ClassGaussian:
        return ClassGaussian(2, [3])

    def oracle(self, prior: ClassGaussian, z: Tensor) -> Tensor:
        parts = [MultivariateNormal(m, torch.eye(2).double()).log_prob(z) for m in prior.means]
        return torch.logsumexp(torch.stack(parts, -1), -1) - torch.tensor(3.0).double().log()


class TestTwoLabels(LabelledPriorSuite):
    def make(self) -> ClassGaussian:
        prior = ClassGaussian(2, [3, Categorical(2)], mean_scale=0.5)
        with torch.no_grad():
            prior.logits.normal_()
        return prior


def test_sets_of_values() -> None:
    torch.manual_seed(0)
    prior = ClassGaussian(2, [4]).double()
    z = prior().sample((5,))
    allowed = torch.tensor([True, False, True, False])
    parts = torch.stack([prior.log_prob_joint(z, torch.tensor([v])) for v in (0, 2)], -1)
    torch.testing.assert_close(prior.log_prob_joint(z, [allowed]), parts.logsumexp(-1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": 0}, "features must be at least 1"),
        ({"features": 2, "mean_scale": -1.0}, "mean_scale must not be negative"),
        ({"features": 2, "labels": [Continuous()]}, "label 0 must be categorical"),
        ({"features": 2, "labels": [100, 101]}, "10100 combinations"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassGaussian(**arguments)


def test_without_labels_there_is_nothing_to_impute() -> None:
    with pytest.raises(ValueError, match="no labels"):
        ClassGaussian(2).label_posteriors(torch.zeros(1, 2))
