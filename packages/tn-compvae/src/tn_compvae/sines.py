r"""The one-dimensional problem of CompVAE: wholes made of sine waves, whose sum goes through a hyperbolic tangent.

    x(t) = K / unit tanh( C / K sum_i a_i cos(2 pi l_i t / T + kappa_i) ),    t = 0..T-1

for K parts with frequencies l_i, amplitudes a_i ~ N(1, 0.3^2) and phases kappa_i ~ N(0, (pi / 2)^2). The whole is not
the sum of its parts, and its size grows with their number.

References:
    Berger and Sebag, Compositional Variational Auto-Encoder, 2020, section 4.2.
"""

import math
from collections.abc import Mapping, Sequence

from tn_core.protocols import Split, SplitName

__all__ = ["Sines"]


class Sines:
    """Sums of sines, drawn from a seed: the same arguments give the same data.

    The labels of an item are its set of parts: label "part k" is the frequency of its k-th part, and -1 says that it
    has no k-th part, not that the part is unknown. The parts come first, in no particular order, then the -1s. The
    number of parts is uniform on 1..``parts``; every part's frequency is uniform on all of them, so one may come twice.

    The paper's x is divided by a constant, ``unit``, so that data lie in [-1, 1] whatever the number of parts. It
    generates data without end; here the number of training items is fixed.

    Arguments:
        parts: the largest number of parts (the paper: 16).
        frequencies: the number of categories; category k is k + 1 cycles a period of the resolution.
        length: T, of a whole.
        resolution: samples a period of frequency 1; None: the length, as the paper says. (Its code: 100.)
        nonlinearity: C.
        phase_deviation: of the phases, in radians. (The paper's code: 0.8.)
        unit: what the paper's x is divided by; None: ``parts``. Give the same to data sets that shall be comparable.
        items: in the training part.
        test_items: in the test part.
        seed: of both.

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
    ) -> None:
        for name, value in (
            ("parts", parts),
            ("frequencies", frequencies),
            ("length", length),
            ("items", items),
            ("test_items", test_items),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, number in (("resolution", resolution), ("nonlinearity", nonlinearity), ("unit", unit)):
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be positive, got {number}")
        if not phase_deviation >= 0:
            raise ValueError(f"phase_deviation must not be negative, got {phase_deviation}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.parts, self.frequencies, self.length = parts, frequencies, length
        self.resolution = length if resolution is None else resolution
        self.nonlinearity, self.phase_deviation = nonlinearity, phase_deviation
        self.unit = float(parts) if unit is None else unit
        self.seed = seed
        self._items = {"train": items, "test": test_items}
        self.shape: tuple[int, ...] = (length,)
        names = [str(k + 1) for k in range(frequencies)]
        self.labels: Mapping[str, Sequence[str]] = {f"part {k + 1}": names for k in range(parts)}

    def split(self, name: SplitName) -> Split:
        """Returns one part: x float32 (items, length) in [-1, 1], labels long (items, parts), none hidden.

        Raises:
            ValueError: if the name is neither "train" nor "test".
        """
        import numpy as np
        import torch

        if name not in self._items:
            raise ValueError(f"name must be 'train' or 'test', got {name!r}")
        items = self._items[name]
        # NumPy promises never to change this stream; torch does not
        random = np.random.RandomState([self.seed, list(self._items).index(name)])
        counts = random.randint(1, self.parts + 1, size=items)
        categories = random.randint(self.frequencies, size=(items, self.parts))
        amplitudes = random.normal(1, 0.3, size=(items, self.parts))
        phases = random.normal(0, self.phase_deviation, size=(items, self.parts))
        present = np.arange(self.parts) < counts[:, None]
        amplitudes = amplitudes * present

        angle = 2 * math.pi * np.arange(self.length) / self.resolution
        total = np.zeros((items, self.length))
        for k in range(self.parts):  # one part at a time keeps the memory at one number a sample
            wave = np.cos((categories[:, k, None] + 1) * angle + phases[:, k, None])
            total += amplitudes[:, k, None] * wave
        size = counts[:, None]
        x = size / self.unit * np.tanh(self.nonlinearity / size * total)

        labels = torch.from_numpy(np.where(present, categories, -1)).long()
        return Split(torch.from_numpy(x).float(), labels, torch.zeros_like(labels, dtype=torch.bool))
