r"""A problem of the shape that CompVAE is meant for: what many households together draw from the grid in a day.

A household has a profile that is told (``PROFILES``), and a level, habits and a taste for football that are not; all
households of a whole share the day's weather and whether there is a match on television. Household i draws, in kW,

    x_i(t) = level_i [ base + morning b(t; 7 h + shift_i, 1 h) + evening b(t; 19 h + shift_i, 1.8 h)
                       + heating cold (1 + 0.3 cos(2 pi (t - 6 h) / 24 h)) + 0.4 watch_i match b(t; 21.5 h, 1 h) ]
                       + car b(t; 1 h + shift_i, 1.5 h)

at t = 0, 1/2, ..., 23.5 h, where b is a bump of that centre and width, cold = softplus(15 - temperature) / 10 with
temperature ~ N(7, 5^2) degrees Celsius, match is 1 on three days in ten, watch_i is 1 with the profile's probability,
level_i is log-normal with a deviation of 0.35 and shift_i ~ N(0, (0.7 h)^2). The whole is the sum of its parts given
weather and match, and not otherwise: households drawn each in a weather of its own vary together far too little.

The simulator is ours and its numbers are made up, to be of the size of a European household's.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tn_compvae.simulated import Hidden, Simulated

__all__ = ["PROFILES", "LoadCurves", "Profile"]


class Profile(NamedTuple):
    """What a kind of household draws, in kW, and the probability that it watches a match."""

    base: float
    morning: float
    evening: float
    heating: float
    car: float
    watches: float


PROFILES = {
    "electric heating": Profile(0.20, 0.5, 0.9, 1.5, 0.0, 0.5),
    "gas heating": Profile(0.20, 0.5, 0.9, 0.1, 0.0, 0.5),
    "heat pump": Profile(0.25, 0.4, 0.8, 0.5, 0.0, 0.4),
    "electric car": Profile(0.20, 0.5, 0.8, 0.1, 2.5, 0.3),
    "retired": Profile(0.30, 0.3, 0.5, 0.3, 0.0, 0.8),
    "works at night": Profile(0.25, 0.7, 0.1, 0.2, 0.0, 0.1),
}


class LoadCurves(Simulated):
    """Days of many households, 48 values of half an hour each.

    See :class:`tn_compvae.simulated.Simulated` for what items look like.

    Arguments:
        parts: the largest number of households.
        unit: kW that count as 1; None: ``parts``. Give the same to data sets that shall be comparable.
        items: in the training part, and in an epoch of what is drawn without end.
        test_items: in the test part.
        seed: of both parts.
        grow_every: the largest number of households in training is 2 at first and grows by one whenever so many items
            were drawn; 0: ``parts`` from the start.
        held_out: sets of two or more households whose profiles, counted from 0, sum to a multiple of it are kept out of
            the training data; 0: none.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        parts: int = 8,
        unit: float | None = None,
        items: int = 8192,
        test_items: int = 1024,
        seed: int = 0,
        grow_every: int = 0,
        held_out: int = 0,
    ) -> None:
        if unit is not None and not unit > 0:
            raise ValueError(f"unit must be positive, got {unit}")
        super().__init__(
            (48,),
            list(PROFILES),
            details=3,
            shared=2,
            parts=parts,
            items=items,
            test_items=test_items,
            seed=seed,
            grow_every=grow_every,
            held_out=held_out,
        )
        self.unit = float(parts) if unit is None else unit

    def simulate(self, y: Tensor, hidden: Hidden) -> Tensor:
        """Computes wholes (batch, 48) of sets y, in units.

        The details of a household are the quantiles of its level and of its shift, and whether it watches; those of the
        whole are the quantile of the temperature, and whether there is a match.
        """
        parts = self.schema.read(y)
        u = hidden.parts
        numbers = u.new_tensor(list(PROFILES.values()))[parts.category.clamp_min(0)]
        base, morning, evening, heating, car, watches = numbers.unsqueeze(-1).unbind(-2)
        hour = torch.arange(48, device=y.device).to(u) / 2
        level, shift = (0.35 * torch.special.ndtri(u[..., :1])).exp(), 0.7 * torch.special.ndtri(u[..., 1:2])
        temperature = 7 + 5 * torch.special.ndtri(hidden.whole[:, None, :1])
        cold = functional.softplus(15 - temperature) / 10
        watched = (u[..., 2:] < watches) & (hidden.whole[:, None, 1:] < 0.3)
        usual = (
            base
            + morning * _bump(hour - 7 - shift, 1)
            + evening * _bump(hour - 19 - shift, 1.8)
            + heating * cold * (1 + 0.3 * torch.cos((hour - 6) * math.pi / 12))
            + 0.4 * watched * _bump(hour - 21.5, 1)
        )
        each = level * usual + car * _bump(hour - 1 - shift, 1.5)
        return each.where(parts.present.unsqueeze(-1), 0).sum(1) / self.unit


def _bump(hours: Tensor, width: float) -> Tensor:
    """1 at zero, falling on both sides; a day goes round."""
    return torch.exp(-0.5 * (((hours + 12) % 24 - 12) / width) ** 2)
