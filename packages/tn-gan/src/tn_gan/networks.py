"""Networks for GANs: a discriminator (the ``encoder``, data to a score) and a generator (the ``decoder``).

They have the form that all networks of this project have: a module with two submodules, ``encoder``: (batch, *shape) to
(batch, outputs), and ``decoder``: (batch, features) to (batch, *shape), whose output is squashed by a sigmoid to give
data in [0, 1].

Every generator standardises its latents first (:class:`Standardized`): of a learned prior it sees the shape.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GANMLP", "TRIPGAN", "GANConv", "GANResNet"]


def _check(shape: Sequence[int], features: int, outputs: int) -> None:
    """Checks what a pair for images is asked for."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (channels, height, width), got {tuple(shape)}")
    _check_sizes(features, outputs)


def _check_sizes(features: int, outputs: int) -> None:
    for name, value in (("features", features), ("outputs", outputs)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


class GANMLP(nn.Module):
    """Fully connected layers with rectifiers and without normalisation, for data of any shape.

    Arguments:
        shape: of one item.
        features: the number of latents.
        outputs: of the encoder; a discriminator has one.
        hidden: widths of the discriminator's layers; the generator has them in reverse.
        scale: the discriminator sees data between minus and plus half of this. How fine a structure it finds depends on
            it: a plane with narrow Gaussians wants 20.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        features: int,
        outputs: int = 1,
        hidden: Sequence[int] = (128, 128, 128),
        scale: float = 2.0,
    ) -> None:
        super().__init__()
        _check_sizes(features, outputs)
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must name at least one positive width, got {list(hidden)}")
        size = math.prod(shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), Centred(scale), *_dense([size, *hidden], nn.LeakyReLU(0.2)), nn.Linear(hidden[-1], outputs)
        )
        self.decoder = nn.Sequential(
            Standardized(features),
            *_dense([features, *reversed(hidden)], nn.ReLU()),
            nn.Linear(hidden[0], size),
            nn.Unflatten(1, tuple(shape)),
        )


class Standardized(nn.BatchNorm1d):
    """Latents less their mean and over their deviation: of the batch, and in evaluation of the training.

    A learned prior cannot move or shrink what the generator sees, only shape it. Without this it does so, latent after
    latent, to where the discriminator happens to be mistaken, and samples lose their variety.

    Arguments:
        features: the number of latents.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False)

    def forward(self, z: Tensor) -> Tensor:
        """(batch, features) to (batch, features)."""
        if self.training and len(z) == 1:  # which has no deviation
            return functional.batch_norm(z, self.running_mean, self.running_var)
        return super().forward(z)


class Centred(nn.Module):
    """Data in [0, 1], moved and stretched to lie between minus and plus half of the scale."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return self.scale * (x - 0.5)


def _dense(widths: Sequence[int], rectifier: nn.Module) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), rectifier]
    return layers


class GANConv(nn.Module):
    """Strided 5x5 convolutions, for images of 4x4 or more: the layers of TRIP, appendix C, fewer and narrower.

    The generator normalises over the batch, the discriminator does not: its score of an image depends on that image
    alone. Every layer halves height and width, rounding up; the generator undoes that exactly, so that odd sizes work.

    Arguments:
        shape: (channels, height, width).
        features: the number of latents.
        outputs: of the encoder; a discriminator has one.
        channels: of the discriminator's layers; the generator has them in reverse. The paper: (64, 128, 256, 512).
        normalize: whether the generator normalises over the batch. The paper does not say; its authors' code does not.

    Raises:
        ValueError: if a number is out of its range or an image is too small for so many layers.

    References:
        Kuznetsov et al., A Prior of a Googol Gaussians, 2019, appendix C.
        Radford et al., Unsupervised Representation Learning with DCGANs, 2015, https://arxiv.org/abs/1511.06434
    """

    def __init__(
        self,
        shape: Sequence[int],
        features: int,
        outputs: int = 1,
        channels: Sequence[int] = (32, 64),
        normalize: bool = True,
    ) -> None:
        super().__init__()
        _check(shape, features, outputs)
        if not channels or min(channels) < 1:
            raise ValueError(f"channels must be positive, at least one; got {list(channels)}")
        sizes = [tuple(shape[1:])]
        for _ in channels:  # kernel 5, stride 2, padding 2
            sizes.append(tuple((s + 1) // 2 for s in sizes[-1]))
        if min(sizes[-2]) < 2:
            raise ValueError(f"{len(channels)} layers are too many for images of {shape[1]}x{shape[2]}")
        widths = [shape[0], *channels]
        corner = (widths[-1], *sizes[-1])

        down: list[nn.Module] = []
        for before, after in pairwise(widths):
            down += [nn.Conv2d(before, after, 5, 2, 2), nn.LeakyReLU(0.2)]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(math.prod(corner), outputs))

        up: list[nn.Module] = [Standardized(features), nn.Linear(features, math.prod(corner)), nn.Unflatten(1, corner)]
        for k in range(len(channels), 0, -1):
            if normalize:
                up.append(nn.BatchNorm2d(widths[k]))
            height, width = sizes[k - 1]
            extra = (1 - height % 2, 1 - width % 2)
            up += [nn.ReLU(), nn.ConvTranspose2d(widths[k], widths[k - 1], 5, 2, 2, output_padding=extra)]
        self.decoder = nn.Sequential(*up)


class TRIPGAN(GANConv):
    """The layers of TRIP, appendix C, for images of 16x16 or more: four of 64, 128, 256 and 512 channels.

    Arguments:
        shape: (channels, height, width).
        features: the number of latents; the paper has 128.
        outputs: of the encoder; a discriminator has one.

    Raises:
        ValueError: if a number is out of its range or an image is too small.
    """

    def __init__(self, shape: Sequence[int], features: int, outputs: int = 1) -> None:
        super().__init__(shape, features, outputs, channels=(64, 128, 256, 512), normalize=False)


class GANResNet(nn.Module):
    """Residual blocks, those of SN-GAN for 32x32 (tables 4a and 4b), for images whose sides can be halved.

    Both players halve, or double, a side until it is odd or 4. The generator normalises over the batch, the
    discriminator does not.

    Arguments:
        shape: (channels, height, width).
        features: the number of latents.
        outputs: of the encoder; a discriminator has one.
        width: channels of every block. SN-GAN: 256 for the generator and 128 for the discriminator.

    Raises:
        ValueError: if a number is out of its range or the sides are odd.

    References:
        Miyato et al., Spectral Normalization for GANs, 2018, appendix B.4.
    """

    def __init__(self, shape: Sequence[int], features: int, outputs: int = 1, width: int = 64) -> None:
        super().__init__()
        _check(shape, features, outputs)
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        channels, height, side = shape
        halvings = 0
        while height % 2 == 0 and side % 2 == 0 and min(height, side) > 4:
            height, side, halvings = height // 2, side // 2, halvings + 1
        if not halvings:
            raise ValueError(f"height and width must be even and above 4, got {tuple(shape[1:])}")
        down = [Block(channels if k == 0 else width, width, scale="down", first=k == 0) for k in range(halvings)]
        self.encoder = nn.Sequential(*down, Block(width, width), nn.ReLU(), SumPool(), nn.Linear(width, outputs))
        self.decoder = nn.Sequential(
            Standardized(features),
            nn.Linear(features, width * height * side),
            nn.Unflatten(1, (width, height, side)),
            *(Block(width, width, scale="up", normalize=True) for _ in range(halvings)),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, 1, 1),
        )


class Block(nn.Module):
    """Two 3x3 convolutions, each after a rectifier, added to a shortcut.

    Arguments:
        before: channels.
        after: channels.
        scale: doubles, halves or keeps the sides.
        normalize: over the batch, before each rectifier.
        first: of the discriminator: images are not rectified.
    """

    def __init__(self, before: int, after: int, scale: str = "", normalize: bool = False, first: bool = False) -> None:
        super().__init__()
        self.scale = scale
        self.start = nn.Sequential(
            nn.BatchNorm2d(before) if normalize else nn.Identity(), nn.Identity() if first else nn.ReLU()
        )
        self.one = nn.Conv2d(before, after, 3, 1, 1)
        self.two = nn.Sequential(
            nn.BatchNorm2d(after) if normalize else nn.Identity(), nn.ReLU(), nn.Conv2d(after, after, 3, 1, 1)
        )
        self.shortcut = nn.Conv2d(before, after, 1) if before != after or scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, before, height, width) to (batch, after, ...)."""
        h = self.start(x)
        if self.scale == "up":
            h, x = (functional.interpolate(part, scale_factor=2) for part in (h, x))
        h = self.two(self.one(h))
        if self.scale == "down":
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        result: Tensor = h + self.shortcut(x)
        return result


class SumPool(nn.Module):
    """Adds up what the places hold: (batch, channels, height, width) to (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """The sum over height and width."""
        return x.sum((-2, -1))
