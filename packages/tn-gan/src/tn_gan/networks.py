"""Networks for GANs: a discriminator (the ``encoder``, data to a score) and a generator (the ``decoder``).

They have the form that all networks of this project have: a module with two submodules, ``encoder``: (batch, *shape) to
(batch, outputs), and ``decoder``: (batch, features) to (batch, *shape), whose output is squashed by a sigmoid to give
data in [0, 1].
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

__all__ = ["GANConv"]


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
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be (channels, height, width), got {tuple(shape)}")
        for name, value in (("features", features), ("outputs", outputs)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
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

        up: list[nn.Module] = [nn.Linear(features, math.prod(corner)), nn.Unflatten(1, corner)]
        for k in range(len(channels), 0, -1):
            if normalize:
                up.append(nn.BatchNorm2d(widths[k]))
            height, width = sizes[k - 1]
            extra = (1 - height % 2, 1 - width % 2)
            up += [nn.ReLU(), nn.ConvTranspose2d(widths[k], widths[k - 1], 5, 2, 2, output_padding=extra)]
        self.decoder = nn.Sequential(*up)
