"""Ways between latents."""

import pytest
import torch

from tn_eval.interpolation import between


@pytest.mark.parametrize("way", ["linear", "spherical"])
def test_ways_start_and_end_where_they_should(way):
    torch.manual_seed(0)
    a, b = torch.randn(2, 50, 7).double()
    torch.testing.assert_close(between(a, b, 0.0, way), a)
    torch.testing.assert_close(between(a, b, 1.0, way), b)
    shares = torch.rand(50, 1).double()
    torch.testing.assert_close(between(a, b, shares, way), between(b, a, 1 - shares, way))


def test_spherical_ways_keep_to_the_sphere():
    torch.manual_seed(0)
    a, b = torch.nn.functional.normalize(torch.randn(2, 50, 7).double(), dim=-1)
    for share in (0.2, 0.5, 0.9):
        found = between(a, b, share, "spherical")
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(50).double())
        # at an even pace
        torch.testing.assert_close((found * a).sum(-1).acos(), share * (a * b).sum(-1).acos())


def test_where_there_is_no_angle_the_way_is_linear():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [1.0, 2.0]])
    found = between(a, b, 0.5, "spherical")
    assert found.isfinite().all()
    torch.testing.assert_close(found[:2], torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
