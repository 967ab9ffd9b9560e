"""Networks for autoencoders: pairs of an encoder (data to numbers) and a decoder (latents to logits of the data).

Every pair is a module with two submodules, ``encoder``: (batch, *shape) to (batch, outputs), and ``decoder``:
(batch, features) to (batch, *shape), whose output is squashed by a sigmoid to give the mean of data in [0, 1].
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DCGAN", "MLP", "Conv8", "GatedMLP", "SmallConv"]


class Pair(nn.Module):
    """An encoder and a decoder that fit together."""

    encoder: nn.Module
    decoder: nn.Module


def _check(shape: Sequence[int], features: int, outputs: int | None, multiple: int = 1) -> int:
    """Checks what a convolutional pair is asked for; returns the number of outputs."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (channels, height, width), got {tuple(shape)}")
    if shape[1] % multiple or shape[2] % multiple:
        raise ValueError(f"height and width must be multiples of {multiple}, got {tuple(shape[1:])}")
    if features < 1:
        raise ValueError(f"features must be at least 1, got {features}")
    return 2 * features if outputs is None else outputs


class MLP(Pair):
    """Fully connected layers with ReLU and batch normalisation, for data of any shape.

    Arguments:
        shape: of one item.
        features: the number of latents.
        outputs: of the encoder; None: twice the features, a mean and a log deviation each.
        hidden: widths of the encoder's layers; the decoder has them in reverse.
    """

    def __init__(
        self, shape: Sequence[int], features: int, outputs: int | None = None, hidden: Sequence[int] = (512, 256)
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must name at least one positive width, got {list(hidden)}")
        size = math.prod(shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), *_dense([size, *hidden]), nn.Linear(hidden[-1], 2 * features if outputs is None else outputs)
        )
        self.decoder = nn.Sequential(
            *_dense([features, *reversed(hidden)]), nn.Linear(hidden[0], size), nn.Unflatten(1, tuple(shape))
        )


def _dense(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return layers


class Gated(nn.Module):
    """A linear layer times the sigmoid of another (Dauphin et al. 2017), Glorot's weights.

    Arguments:
        before: inputs.
        after: outputs.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(before, 2 * after)
        for half in self.linear.weight.chunk(2):
            nn.init.xavier_uniform_(half)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before) to (batch, after)."""
        return functional.glu(self.linear(x))


class GatedMLP(Pair):
    """Fully connected gated layers, those of CP-VAE and of the VampPrior paper.

    Arguments:
        shape: of one item.
        features: the number of latents.
        outputs: of the encoder; None: twice the features.
        hidden: widths of the encoder's layers; the decoder has them in reverse.

    References:
        Tomczak and Welling, VAE with a VampPrior, 2018, https://arxiv.org/abs/1705.07120
        Lavda et al., Improving VAE generations of multimodal data, 2020, section 5
    """

    def __init__(
        self, shape: Sequence[int], features: int, outputs: int | None = None, hidden: Sequence[int] = (300, 300)
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must name at least one positive width, got {list(hidden)}")
        size = math.prod(shape)
        into = nn.Linear(hidden[-1], 2 * features if outputs is None else outputs)
        out_of = nn.Linear(hidden[0], size)
        for linear in (into, out_of):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.encoder = nn.Sequential(nn.Flatten(), *(Gated(*widths) for widths in pairwise([size, *hidden])), into)
        back = (Gated(*widths) for widths in pairwise([features, *reversed(hidden)]))
        self.decoder = nn.Sequential(*back, out_of, nn.Unflatten(1, tuple(shape)))


class SmallConv(Pair):
    """Three strided convolutions with batch normalisation and a dense layer: for images of 8x8 to about 32x32.

    Arguments:
        shape: (channels, height, width).
        features: the number of latents.
        outputs: of the encoder; None: twice the features.
        width: channels of the first layer; they double twice.
        hidden: units of the dense layer.
    """

    def __init__(
        self, shape: Sequence[int], features: int, outputs: int | None = None, width: int = 16, hidden: int = 256
    ) -> None:
        super().__init__()
        outputs = _check(shape, features, outputs)
        if width < 1 or hidden < 1:
            raise ValueError(f"width and hidden must be at least 1, got {width} and {hidden}")
        channels = [shape[0], width, 2 * width, 4 * width]
        sizes = [(shape[1], shape[2])]
        for _ in range(3):  # kernel 3, stride 2, padding 1
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        down: list[nn.Module] = []
        for before, after in pairwise(channels):
            down += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        flat = channels[-1] * math.prod(sizes[-1])
        self.encoder = nn.Sequential(
            *down, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )
        up: list[nn.Module] = []
        for k in (3, 2, 1):
            # exactly undoes the sizes of the way down
            extra = (1 - sizes[k - 1][0] % 2, 1 - sizes[k - 1][1] % 2)
            up += [nn.BatchNorm2d(channels[k]), nn.ReLU()]
            up += [nn.ConvTranspose2d(channels[k], channels[k - 1], 3, 2, 1, output_padding=extra)]
        self.decoder = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, flat),
            nn.Unflatten(1, (channels[-1], *sizes[-1])),
            *up,
        )


class DCGAN(Pair):
    """The pair of TRIP, appendix C: 5x5 kernels, stride 2, channels 64-128-256-512, no normalisation.

    Arguments:
        shape: (channels, height, width), height and width multiples of 16.
        features: the number of latents.
        outputs: of the encoder; None: twice the features.
        channels: of the layers.

    References:
        Kuznetsov et al., A Prior of a Googol Gaussians, 2019, appendix C.
    """

    def __init__(
        self,
        shape: Sequence[int],
        features: int,
        outputs: int | None = None,
        channels: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ValueError(f"channels must be positive, at least one; got {list(channels)}")
        times = 2 ** len(channels)
        outputs = _check(shape, features, outputs, times)
        widths = [shape[0], *channels]
        corner = (channels[-1], shape[1] // times, shape[2] // times)
        down: list[nn.Module] = []
        for before, after in pairwise(widths):
            down += [nn.Conv2d(before, after, 5, 2, 2), nn.LeakyReLU(0.2)]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(math.prod(corner), outputs))
        up: list[nn.Module] = []
        for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [nn.ReLU(), nn.ConvTranspose2d(before, after, 5, 2, 2, output_padding=1)]
        self.decoder = nn.Sequential(nn.Linear(features, math.prod(corner)), nn.Unflatten(1, corner), *up)


class Conv8(Pair):
    """The 8-layer pair of VAE-TTLP, section 6.1: six convolutions, two dense layers, and the mirror image of them.

    The paper names neither kernels nor widths; here 3x3 kernels, every second one strided, with batch normalisation.

    Arguments:
        shape: (channels, height, width), height and width multiples of 4.
        features: the number of latents.
        outputs: of the encoder; None: twice the features.
        width: channels of the first two layers; they double after every second.
        hidden: units of the dense layer.

    References:
        Kuznetsov et al., Subset-Conditioned Generation, 2018, section 6.1.
    """

    def __init__(
        self, shape: Sequence[int], features: int, outputs: int | None = None, width: int = 32, hidden: int = 256
    ) -> None:
        super().__init__()
        # the third strided layer is left out where the image is too odd to be halved three times
        halvings = 3 if shape[-1] % 8 == 0 and shape[-2] % 8 == 0 else 2
        outputs = _check(shape, features, outputs, 2**halvings)
        widths = [shape[0], width, width, 2 * width, 2 * width, 4 * width, 4 * width]
        strides = [1, 2, 1, 2, 1, 2 if halvings == 3 else 1]
        corner = (widths[-1], shape[1] // 2**halvings, shape[2] // 2**halvings)
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for before, after, stride in zip(widths, widths[1:], strides, strict=False):
            down += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
            up = [
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.ConvTranspose2d(after, before, 3, stride, 1, output_padding=stride - 1),
                *up,
            ]
        flat = math.prod(corner)
        self.encoder = nn.Sequential(
            *down, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )
        self.decoder = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, flat), nn.Unflatten(1, corner), *up
        )
