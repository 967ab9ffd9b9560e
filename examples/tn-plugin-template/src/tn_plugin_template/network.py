"""A network: a pair of an encoder and a decoder made of dense residual blocks."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["ResidualMLP"]


class ResidualMLP(nn.Module):
    """Dense residual blocks, for data of any shape.

    Arguments:
        shape: of one item.
        features: the number of latents.
        outputs: of the encoder; None: twice the features, a mean and a log deviation each.
        width: of the blocks.
        blocks: how many, in the encoder and in the decoder.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self, shape: Sequence[int], features: int, outputs: int | None = None, width: int = 128, blocks: int = 2
    ) -> None:
        super().__init__()
        if width < 1 or blocks < 0:
            raise ValueError(f"width must be at least 1 and blocks at least 0, got {width} and {blocks}")
        size = math.prod(shape)
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(size, width),
            *(Block(width) for _ in range(blocks)),
            nn.Linear(width, 2 * features if outputs is None else outputs),
        )
        self.decoder = nn.Sequential(
            nn.Linear(features, width),
            *(Block(width) for _ in range(blocks)),
            nn.Linear(width, size),
            nn.Unflatten(1, tuple(shape)),
        )


class Block(nn.Module):
    """x + f(x) with a layer norm in front of f."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to the same."""
        out: Tensor = x + self.body(x)
        return out
