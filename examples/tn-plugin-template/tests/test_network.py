"""The network fits together for data of any shape."""

import pytest
import torch

from tn_plugin_template.network import ResidualMLP


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4), (7,)], ids=str)
@pytest.mark.parametrize(("outputs", "expected"), [(None, 6), (3, 3)])
def test_shapes(shape: tuple[int, ...], outputs: int | None, expected: int) -> None:
    network = ResidualMLP(shape, 3, outputs, width=16)
    assert network.encoder(torch.zeros(2, *shape)).shape == (2, expected)
    assert network.decoder(torch.zeros(2, 3)).shape == (2, *shape)


def test_every_parameter_has_a_gradient() -> None:
    network = ResidualMLP((1, 4, 4), 2, outputs=2, width=8)
    network.decoder(network.encoder(torch.randn(3, 1, 4, 4))).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


@pytest.mark.parametrize("arguments", [{"width": 0}, {"blocks": -1}])
def test_wrong_arguments(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="width must be at least 1 and blocks at least 0"):
        ResidualMLP((1, 8, 8), 2, **arguments)
