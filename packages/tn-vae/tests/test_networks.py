"""The pairs fit together for every shape they say they take, and refuse the others."""

import pytest
import torch

from tn_vae import DCGAN, MLP, Conv8, SmallConv

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (2, 5, 7), (1, 29, 27)]
CASES = [
    *((MLP, shape) for shape in SHAPES),
    *((SmallConv, shape) for shape in SHAPES),
    *((DCGAN, shape) for shape in SHAPES[2:4]),
    *((Conv8, shape) for shape in SHAPES[:4]),
]


@pytest.mark.parametrize(("network", "shape"), CASES)
def test_decoder_mirrors_encoder(network, shape):
    pair = network(shape, 6)
    x = torch.rand(3, *shape)
    z = pair.encoder(x)
    assert z.shape == (3, 12)
    assert pair.decoder(z[:, :6]).shape == x.shape
    assert network(shape, 6, outputs=1).encoder(x).shape == (3, 1)


@pytest.mark.parametrize(("network", "shape"), CASES)
def test_every_parameter_has_a_gradient(network, shape):
    torch.manual_seed(0)
    pair = network(shape, 4)
    pair.decoder(pair.encoder(torch.rand(5, *shape))[:, :4]).square().sum().backward()
    # outputs 4 to 7 were cut off, so look at whole tensors
    dead = [name for name, p in pair.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not [name for name in dead if "bias" not in name]  # a bias before batch normalisation has no effect


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DCGAN((1, 28, 28), 4), "multiples of 16"),
        (lambda: Conv8((1, 30, 30), 4), "multiples of 4"),
        (lambda: SmallConv((8, 8), 4), "channels, height, width"),
        (lambda: SmallConv((1, 8, 8), 0), "features must be at least 1"),
        (lambda: SmallConv((1, 8, 8), 4, width=0), "at least 1"),
        (lambda: MLP((8,), 4, hidden=()), "hidden"),
        (lambda: DCGAN((1, 8, 8), 4, channels=()), "channels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
