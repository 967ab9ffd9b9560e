"""What the package offers by name."""

import subprocess
import sys

import pytest
import torch
from torch.distributions import Independent, Normal
from zuko.lazy import LazyDistribution

import tn_priors
from tn_core.components import Component, build
from tn_core.plugins import PluginHost
from tn_core.signatures import written_arguments
from tn_priors import plugin


@pytest.fixture
def host():
    host = PluginHost([], strict=True)
    host.register(plugin)
    return host


@pytest.mark.parametrize("name", sorted(plugin.priors()))
def test_every_prior_is_built_from_its_surroundings_alone(host, name):
    prior = build({"name": name}, "priors", host, features=3, shape=(2,))
    if name == "VampPrior":  # made of a model's posteriors
        prior.bind(lambda x: Independent(Normal(x.mean(-1, True).expand(-1, 3), x.new_ones(3)), 1))
    assert isinstance(prior, LazyDistribution)
    assert prior().log_prob(prior().sample((2,))).shape == (2,)


def test_labels_reach_those_who_take_them(host):
    prior = build({"name": "TRIP", "rank": 3}, "priors", host, features=3, labels=[2, 5])
    assert prior(torch.tensor([[1, -1]])).sample().shape == (1, 3)
    build({"name": "GaussianMixture"}, "priors", host, features=3, labels=[2, 5])


def test_a_flow_is_built_over_any_prior(host):
    """Features and labels reach the base; the flow's arguments are known without importing it."""
    spec = {"name": "Flow", "kind": "MAF", "hidden": [8], "base": {"name": "TRIP", "rank": 3}}
    prior = build(spec, "priors", host, features=3, labels=[2, 5])
    assert prior(torch.tensor([[1, -1]])).sample().shape == (1, 3)
    assert [p.shape for p in prior.label_posteriors(torch.zeros(4, 3))] == [(4, 2), (4, 5)]
    prior = build({"name": "Flow", "base": "GaussianMixture"}, "priors", host, features=3, labels=[2, 5])
    assert prior.labels == ()
    arguments = written_arguments(host.target("priors", "Flow"))
    assert list(arguments) == ["features", "base", "kind", "transforms", "hidden"]
    assert arguments["base"] == Component("priors", "StandardNormal")


@pytest.mark.parametrize("name", tn_priors.__all__)
def test_names_are_found(name):
    assert getattr(tn_priors, name).__name__ == name


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="Nothing"):
        getattr(tn_priors, "Nothing")  # noqa: B009
    assert tn_priors.__version__.count(".") == 2


def test_importing_names_imports_no_torch():
    code = "import sys, tn_priors, tn_priors.plugin; tn_priors.plugin.priors(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
