r"""The one-dimensional problem of CompVAE: wholes made of sine waves, whose sum goes through a hyperbolic tangent.

    x(t) = K / unit tanh( C / K sum_i a_i cos(2 pi l_i t / T + kappa_i) ),    t = 0..T-1

for K parts with frequencies l_i, amplitudes a_i ~ N(1, 0.3^2) and phases kappa_i ~ N(0, (pi / 2)^2). The whole is not
the sum of its parts, and its size grows with their number.

References:
    Berger and Sebag, Compositional Variational Auto-Encoder, 2020, section 4.2.
"""

import math

import torch
from torch import Tensor

from tn_compvae.simulated import Hidden, Simulated

__all__ = ["Sines"]


class Sines(Simulated):
    """Sums of sines; a part is a wave with a frequency that is told, an amplitude and a phase that are not.

    See :class:`tn_compvae.simulated.Simulated` for what items look like. The paper's x is divided by a constant,
    ``unit``, so that data lie in [-1, 1] whatever the number of parts.

    Arguments:
        parts: the largest number of parts (the paper: 16).
        frequencies: the number of categories; category k is k + 1 cycles a period of the resolution.
        length: T, of a whole.
        resolution: samples a period of frequency 1; None: the length, as the paper says. (Its code: 100.)
        nonlinearity: C.
        phase_deviation: of the phases, in radians. (The paper's code: 0.8.)
        unit: what the paper's x is divided by; None: ``parts``. Give the same to data sets that shall be comparable.
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
        frequencies: int = 10,
        length: int = 200,
        resolution: int | None = None,
        nonlinearity: float = 3.0,
        phase_deviation: float = math.pi / 2,
        unit: float | None = None,
        items: int = 8192,
        test_items: int = 1024,
        seed: int = 0,
        grow_every: int = 0,
        held_out: int = 0,
    ) -> None:
        for name, value in (("frequencies", frequencies), ("length", length)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, number in (("resolution", resolution), ("nonlinearity", nonlinearity), ("unit", unit)):
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be positive, got {number}")
        if not phase_deviation >= 0:
            raise ValueError(f"phase_deviation must not be negative, got {phase_deviation}")
        super().__init__(
            (length,),
            [str(k + 1) for k in range(frequencies)],
            details=2,
            parts=parts,
            items=items,
            test_items=test_items,
            seed=seed,
            grow_every=grow_every,
            held_out=held_out,
        )
        self.length, self.resolution = length, length if resolution is None else resolution
        self.nonlinearity, self.phase_deviation = nonlinearity, phase_deviation
        self.unit = float(parts) if unit is None else unit

    def simulate(self, y: Tensor, hidden: Hidden) -> Tensor:
        r"""Computes wholes (batch, length) of sets y; details are the quantiles of a part's amplitude and phase."""
        parts = self.schema.read(y)
        amplitude, phase = torch.special.ndtri(hidden.parts).unbind(-1)
        amplitude = (1 + 0.3 * amplitude).where(parts.present, 0)
        angle = torch.arange(self.length, device=y.device).to(amplitude) * (2 * math.pi / self.resolution)
        total = amplitude.new_zeros(len(y), self.length)
        for k in range(amplitude.shape[1]):  # one part at a time keeps the memory at one number a sample
            turned = torch.outer(parts.category[:, k] + 1, angle) + self.phase_deviation * phase[:, k, None]
            total += amplitude[:, k, None] * turned.cos()
        size = parts.sizes.unsqueeze(1).to(total)
        return size / self.unit * torch.tanh(self.nonlinearity / size.clamp_min(1) * total)
