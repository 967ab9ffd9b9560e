"""The VampPrior: its starts, its bounds, its errors. That it is a prior like others is shown by the suite."""

import pytest
import torch
from torch.distributions import Independent, Normal

from tn_priors import VampPrior


def test_pseudo_inputs_start_from_data_once():
    torch.manual_seed(0)
    x = torch.rand(5, 3)
    prior = VampPrior((3,), 7, start="data", noise=0.0)
    assert not prior.has_started
    prior.start_from(x)
    assert prior.has_started
    assert torch.equal(prior.pseudo_inputs, x[[0, 1, 2, 3, 4, 0, 1]])
    again = VampPrior((3,), 7)
    again.load_state_dict(prior.state_dict())
    assert again.has_started  # a model that was loaded does not start anew


def test_pseudo_inputs_start_near_the_mean():
    torch.manual_seed(0)
    x = torch.rand(50, 3)
    prior = VampPrior((3,), 2000, start="mean", noise=0.01)
    prior.start_from(x)
    assert torch.allclose(prior.pseudo_inputs.mean(0), x.mean(0), atol=5 * 0.01 / 2000**0.5)
    assert torch.allclose(prior.pseudo_inputs.std(0), torch.full((3,), 0.01), rtol=0.1)


def test_pseudo_inputs_are_kept_between_zero_and_one():
    prior = VampPrior((1,), 2)
    seen = []
    prior.bind(lambda x: seen.append(x) or Independent(Normal(x, torch.ones_like(x)), 1))
    with torch.no_grad():
        prior.pseudo_inputs.copy_(torch.tensor([[-3.0], [1.5]]))
    prior()
    assert seen[0].tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": 0}, "components must be at least 1"),
        ({"start": "zero"}, "start must be 'data' or 'mean'"),
        ({"noise": -1.0}, "noise must not be negative"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        VampPrior((2,), **arguments)


def test_use_errors():
    prior = VampPrior((2,), 3)
    with pytest.raises(ValueError, match="bind"):
        prior()
    with pytest.raises(ValueError, match="no labels"):
        prior(torch.tensor([1]))
