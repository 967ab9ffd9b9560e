"""Data drawn from a seed: their distribution, and that the seed fixes them."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from tn_core.errors import UserError
from tn_eval.synthetic import GaussianGrid, TwoGaussians


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize(("name", "items"), [("train", 50_000), ("test", 10_000)])
def test_the_mixture_is_that_of_the_paper(seed, name, items):
    split = TwoGaussians(seed=seed).split(name)
    assert split.x.dtype == torch.float32
    assert split.x.shape == split.labels.shape == (items, 1)
    assert split.labels.dtype == torch.long
    x, component = split.x[:, 0].double().numpy(), split.labels[:, 0].numpy()
    # Hoeffding's inequality: wrongly rejected with probability 1e-9, four times
    assert abs(component.mean() - 0.5) < math.sqrt(math.log(2e9) / (2 * items))
    for value, mean in enumerate((0.1, 1.0)):
        # Kolmogorov and Smirnov's test, eight times: wrongly rejected with probability 1e-6 each
        assert scipy.stats.kstest(x[component == value], scipy.stats.norm(mean, 0.1).cdf).pvalue > 1e-6


def test_a_seed_fixes_the_data():
    # written out, so that no later version draws others: a run's record names only the seed
    split = TwoGaussians().split("train")
    expected = [1.08477, 1.136469, 1.055882]
    assert split.x[:3, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert split.labels[:3, 0].tolist() == [1, 1, 1]
    assert torch.equal(split.x, TwoGaussians(missing=0.5).split("train").x)
    for other in (TwoGaussians(seed=1).split("train"), TwoGaussians().split("test")):
        assert not (split.x[:1000] == other.x[:1000]).any()


def test_the_data_do_not_touch_the_global_random_states():
    states = torch.get_rng_state(), np.random.get_state()[1]
    TwoGaussians(missing=0.5).split("train")
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


def test_labels_are_hidden_as_those_of_other_data_sets():
    some = TwoGaussians(missing=0.7, missing_seed=3).split("train")
    # Hoeffding's inequality: wrongly rejected with probability 1e-9
    assert abs(some.hidden.double().mean() - 0.7) < math.sqrt(math.log(2e9) / (2 * 50_000))
    more = TwoGaussians(missing=0.9, missing_seed=3).split("train")
    assert not (some.hidden & ~more.hidden).any()
    few = TwoGaussians(missing=0.7, missing_seed=3, train_size=100).split("train")
    where = torch.isin(some.x[:, 0], few.x[:, 0])
    assert torch.equal(some.hidden[where], few.hidden)
    assert not TwoGaussians(missing=1.0).split("test").hidden.any()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range(seed):
    with pytest.raises(UserError, match=f"seed is a whole number from 0 to {2**32 - 1}, not {seed}"):
        TwoGaussians(seed=seed)


@pytest.mark.parametrize("name", ["train", "test"])
def test_the_grid_has_25_equal_gaussians(name):
    data = GaussianGrid()
    split = data.split(name)
    x, places = split.x, split.labels
    assert x.dtype == torch.float32
    assert x.shape == places.shape == ({"train": 100_000, "test": 10_000}[name], 2)
    mode = places[:, 0] * 5 + places[:, 1]
    shares = mode.bincount(minlength=25) / len(x)
    # Hoeffding's inequality, 25 times: wrongly rejected with probability 1e-9 each
    assert (shares - 1 / 25).abs().max() < math.sqrt(math.log(2e9) / (2 * len(x)))
    noise = ((x - data.centres[mode]) / data.deviation).double().numpy()
    for column in noise.T:
        assert scipy.stats.kstest(column, scipy.stats.norm.cdf).pvalue > 1e-6
    assert x.min() > 0
    assert x.max() < 1


def test_a_seed_fixes_the_grid():
    split = GaussianGrid().split("train")
    expected = [[0.310605, 0.497865], [0.092462, 0.3009]]
    assert torch.allclose(split.x[:2], torch.tensor(expected), atol=1e-6)
    assert not (split.x[:1000] == GaussianGrid(seed=1).split("train").x[:1000]).any()
