r"""The two-dimensional problem of CompVAE: images coloured by the sites that are nearest.

    x(r) = ( sum_i weight_i(r) colour_i ) ^ (1 / 2.4),    weight(r) = softmax_i( -intensity_i |r - place_i|^2 )

for pixels r of a grid over [-1, 1]^2, and K sites with a colour and a place that are told and an intensity, uniform on
[5, 10], that is not. Adding a site changes its neighbourhood only; colours are mixed as light, and then made visible
(gamma).

References:
    Berger and Sebag, Compositional Variational Auto-Encoder, 2020, section 4.2; ranges and exponent are those of the
    authors' code.
"""

import torch
from torch import Tensor

from tn_compvae.simulated import Hidden, Simulated
from tn_core.protocols import Interval

__all__ = ["Sites"]

_COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1), "black": (0, 0, 0)}
_GAMMA = 2.4


class Sites(Simulated):
    """Coloured sites; a part has a colour and a place, x and y in [-0.9, 0.9], that are told.

    See :class:`tn_compvae.simulated.Simulated` for what items look like. Values are in [0, 1]; a whole without parts
    is black.

    Arguments:
        parts: the largest number of parts (the paper: 8).
        size: height and width of an image, in pixels.
        items: in the training part, and in an epoch of what is drawn without end.
        test_items: in the test part.
        seed: of both parts.
        grow_every: the largest number of parts in training is 2 at first and grows by one whenever so many items were
            drawn; 0: ``parts`` from the start. (The paper: every 3,000 batches of 256.)
        held_out: sets of two or more parts whose categories, counted from 0, sum to a multiple of it are kept out of
            the training data; 0: none.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        parts: int = 4,
        size: int = 32,
        items: int = 8192,
        test_items: int = 1024,
        seed: int = 0,
        grow_every: int = 0,
        held_out: int = 0,
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        super().__init__(
            (3, size, size),
            list(_COLOURS),
            numbers={"x": Interval(-0.9, 0.9), "y": Interval(-0.9, 0.9)},
            details=1,
            parts=parts,
            items=items,
            test_items=test_items,
            seed=seed,
            grow_every=grow_every,
            held_out=held_out,
        )
        self.size = size

    def simulate(self, y: Tensor, hidden: Hidden) -> Tensor:
        r"""Computes wholes (batch, 3, size, size) of sets y; the detail of a part is its intensity's quantile."""
        parts = self.schema.read(y)
        intensity = 5 + 5 * hidden.parts[..., 0]
        grid = torch.linspace(-1, 1, self.size, device=y.device).to(intensity)
        across, down = ((grid - parts.numbers[..., k, None]) ** 2 for k in range(2))  # (batch, places, size)
        distance = down.unsqueeze(-1) + across.unsqueeze(-2)
        energy = -intensity[..., None, None] * distance
        weight = energy.masked_fill(~parts.present[..., None, None], -torch.inf).softmax(1).nan_to_num()
        colour = torch.tensor(list(_COLOURS.values()), device=y.device).to(intensity)[parts.category.clamp_min(0)]
        return torch.einsum("bphw,bpc->bchw", weight, colour) ** (1 / _GAMMA)
