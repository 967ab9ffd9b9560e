"""Aggregations: order, size and absent places; each does what it says; any of them trains."""

import math

import pytest
import torch
from torch import nn

from tn_compvae import CompVAE, PartsMLP
from tn_compvae.aggregations import LogSumExp, Mean, Sum
from tn_core.plugins import PluginHost

NAMES = ("LogSumExp", "Mean", "Sum")


@pytest.mark.parametrize("name", NAMES)
def test_neither_order_nor_absent_places_matter(name: str) -> None:
    aggregation = PluginHost(strict=True).get("aggregations", name)()
    parts = torch.randn(6, 5, 3, dtype=torch.float64)
    present = torch.rand(6, 5) < 0.6
    present[0] = False
    found = aggregation(parts, present)
    assert found.shape == (6, 3)
    order = torch.randperm(5)
    torch.testing.assert_close(aggregation(parts[:, order], present[:, order]), found, rtol=0, atol=1e-12)
    other = parts.where(present.unsqueeze(-1), math.nan)
    torch.testing.assert_close(aggregation(other, present), found, rtol=0, atol=1e-12)
    assert (found[0] == 0).all()
    more = torch.cat([parts, torch.randn(6, 30, 3)], 1), torch.cat([present, torch.zeros(6, 30).bool()], 1)
    torch.testing.assert_close(aggregation(*more), found, rtol=0, atol=1e-12)


def test_what_each_does() -> None:
    parts, present = torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])
    assert Sum()(parts, present).item() == 4
    assert Mean()(parts, present).item() == 2
    assert LogSumExp()(parts, present).item() == pytest.approx(math.log(1 + math.e + math.e**3))


@pytest.mark.parametrize("aggregation", [LogSumExp(), Mean(), Sum()])
def test_the_model_has_gradients_with_any_of_them(aggregation: nn.Module) -> None:
    m = CompVAE(PartsMLP((12,), 3, [5] * 4, hidden=16), aggregation)
    m.elbo(torch.randn(32, 12), torch.randint(-1, 5, (32, 4))).mean().backward()
    for name, parameter in m.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
