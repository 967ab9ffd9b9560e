"""The networks: shapes, what each item depends on, errors."""

from typing import Any

import pytest
import torch

from tn_core.plugins import PluginHost
from tn_gan import GANConv


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 9, 15), (1, 4, 4)])
@pytest.mark.parametrize("normalize", [True, False])
def test_shapes_and_every_gradient(shape: tuple[int, int, int], normalize: bool) -> None:
    network = GANConv(shape, features=5, normalize=normalize)
    x = network.decoder(torch.randn(4, 5))
    assert x.shape == (4, *shape)
    score = network.encoder(x)
    assert score.shape == (4, 1)
    score.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # a constant before batch normalisation is subtracted again
        if not (normalize and name.startswith("decoder") and name.endswith("bias")):
            assert parameter.grad.abs().max() > 0, name


def test_the_score_of_an_item_depends_on_that_item_alone() -> None:
    encoder = GANConv((1, 8, 8), features=5).train().double().encoder
    x = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(encoder(x)[:2], encoder(x[:2]), rtol=0, atol=1e-12)


def test_outputs_and_channels() -> None:
    network = GANConv((3, 16, 16), features=2, outputs=7, channels=(8, 8, 16))
    assert network.encoder(torch.rand(2, 3, 16, 16)).shape == (2, 7)
    assert network.decoder(torch.rand(2, 2)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (8, 8)}, "shape must be"),
        ({"shape": (1, 0, 8)}, "shape must be"),
        ({"features": 0}, "features must be at least 1"),
        ({"outputs": 0}, "outputs must be at least 1"),
        ({"channels": ()}, "channels must be positive"),
        ({"channels": (4, -1)}, "channels must be positive"),
        ({"shape": (1, 2, 8)}, "too many for images of 2x8"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GANConv(**{"shape": (1, 8, 8), "features": 3, **arguments})


def test_everything_registered_exists() -> None:
    host = PluginHost(strict=True)
    assert host.get("models", "GAN").__name__ == "GAN"
    assert host.get("networks", "GANConv") is GANConv
