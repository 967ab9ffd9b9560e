"""The networks: shapes, what each item depends on, errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tn_core.plugins import PluginHost
from tn_gan import GANMLP, TRIPGAN, GANConv, GANResNet
from tn_gan.networks import Standardized


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


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (GANMLP, (2,)),
        (GANMLP, (1, 3, 3)),
        (TRIPGAN, (3, 64, 64)),
        (TRIPGAN, (1, 28, 28)),
        (lambda *sizes: GANResNet(*sizes, width=8), (3, 32, 32)),
        (lambda *sizes: GANResNet(*sizes, width=8), (1, 28, 28)),
        (lambda *sizes: GANResNet(*sizes, width=8), (1, 6, 16)),
    ],
)
def test_the_other_pairs(build: Callable[..., Any], shape: tuple[int, ...]) -> None:
    network = build(shape, 5)
    x = network.decoder(torch.randn(4, 5))
    assert x.shape == (4, *shape)
    score = network.encoder(x)
    assert score.shape == (4, 1)
    torch.testing.assert_close(network.encoder(x[:2]), score[:2], rtol=0, atol=1e-4)  # no item tells of another
    score.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert build(shape, 5, 3).encoder(x).shape == (4, 3)


def test_sizes_of_the_published_networks() -> None:
    kernels = [m.weight.shape for m in TRIPGAN((3, 64, 64), 128).decoder if hasattr(m, "kernel_size")]
    assert kernels == [(512, 256, 5, 5), (256, 128, 5, 5), (128, 64, 5, 5), (64, 3, 5, 5)]
    network = GANResNet((3, 32, 32), 128, width=128)
    assert network.decoder[1].out_features == 128 * 4 * 4


@pytest.mark.parametrize("build", [GANMLP, TRIPGAN, GANConv, lambda *sizes: GANResNet(*sizes, width=8)])
def test_the_generator_sees_the_shape_of_a_prior_not_its_place_or_scale(build: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    network = build((1, 16, 16), 5).double()
    z = torch.randn(12, 5, dtype=torch.float64)
    moved = 3 + z * torch.linspace(1, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(
        network.decoder(moved), network.decoder(z), rtol=0, atol=1e-3
    )  # a variance has 1e-5 added
    for _ in range(200):
        network.decoder(moved)
    network.eval()
    at_moved, alone = network.decoder(moved), network.decoder(moved[:1])  # in evaluation no item tells of another
    torch.testing.assert_close(at_moved[:1], alone)
    assert (at_moved - network.decoder(z)).abs().max() > 1e-2


def test_a_batch_of_one_is_standardised_by_earlier_ones() -> None:
    layer = Standardized(2)
    for _ in range(200):
        layer(torch.tensor([[1.0, 4.0], [3.0, 0.0]]))
    torch.testing.assert_close(layer(torch.tensor([[2.0, 4.0]])), torch.tensor([[0.0, 2 / 8**0.5]]))


def test_what_a_dense_discriminator_sees() -> None:
    seen = GANMLP((2,), 3, scale=8.0).encoder[:2](torch.tensor([[0.0, 1.0], [0.5, 0.625]]))
    torch.testing.assert_close(seen, torch.tensor([[-4.0, 4.0], [0.0, 1.0]]))


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


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (GANMLP, {"hidden": ()}, "hidden must name"),
        (GANMLP, {"features": 0}, "features must be at least 1"),
        (GANMLP, {"scale": 0.0}, "scale must be positive"),
        (GANResNet, {"shape": (1, 7, 8)}, "even and above 4"),
        (GANResNet, {"shape": (8, 8)}, "shape must be"),
        (GANResNet, {"width": 0}, "width must be at least 1"),
        (TRIPGAN, {}, "too many for images of 8x8"),
    ],
)
def test_errors_of_the_other_pairs(build: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{"shape": (1, 8, 8), "features": 3, **arguments})


def test_everything_registered_exists() -> None:
    host = PluginHost(strict=True)
    assert host.get("models", "GAN").__name__ == "GAN"
    for network in (GANConv, GANMLP, GANResNet, TRIPGAN):
        assert host.get("networks", network.__name__) is network
