"""What a fit to latents is made of: which variables tell of each other, and the order that puts those side by side."""

import pytest
import torch

from tn_priors.fitting import mutual_information, seriate


def test_mutual_information_is_that_of_the_table():
    """A joint table as weighted samples: one copy of a pair of values for each thousandth of its probability."""
    joint = torch.tensor([[300, 100, 50], [50, 200, 300]])
    pairs = torch.cat([torch.tensor([[i, j]]).expand(int(joint[i, j]), 2) for i in range(2) for j in range(3)])
    shares = [torch.nn.functional.one_hot(pairs[:, k], 2 + k).double() for k in range(2)]
    p = joint.double() / 1000
    expected = (p * (p / (p.sum(1, keepdim=True) * p.sum(0))).log()).sum() - 2 / 2000
    found = mutual_information(shares)
    torch.testing.assert_close(found, expected * torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double())
    # what is known of one alone does not count
    more = [torch.cat([shares[0], torch.ones(500, 2) / 2]), torch.cat([shares[1], torch.zeros(500, 3)])]
    torch.testing.assert_close(mutual_information(more), found)


def test_independent_variables_tell_little_of_each_other():
    torch.manual_seed(0)
    found = []
    for _ in range(200):
        values = torch.randint(8, (300, 2))
        found.append(mutual_information([torch.nn.functional.one_hot(v, 8).double() for v in values.unbind(1)])[0, 1])
    # without the correction the mean is 49 / 600 = 0.08
    assert torch.stack(found).mean() < 0.02


def test_nothing_is_known_of_two_variables_together():
    shares = [torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])]
    assert mutual_information(shares).eq(0).all()


@pytest.mark.parametrize("reach", [0.5, 3.0])
def test_seriate_finds_a_path_that_was_shuffled(reach):
    torch.manual_seed(0)
    hidden = torch.randperm(12)
    place = torch.argsort(hidden)
    information = torch.exp(-(place[:, None] - place).abs() / reach).fill_diagonal_(0)
    found = seriate(information)
    assert found.equal(hidden) or found.flip(0).equal(hidden)


@pytest.mark.parametrize("variables", [1, 2, 3])
def test_seriate_of_few_variables(variables):
    assert sorted(seriate(torch.zeros(variables, variables)).tolist()) == list(range(variables))
