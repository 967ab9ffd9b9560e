"""Data sets that are drawn, not read: numbers from two Gaussians, points from a grid of them.

References:
    Lavda, Gregorová and Kalousis, Improving VAE generations of multimodal data through data-dependent conditional
    priors (CP-VAE), 2019, section 5.1.
    Srivastava et al., VEEGAN: Reducing Mode Collapse in GANs, 2017, section 5.1, https://arxiv.org/abs/1705.07761
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tn_core.errors import MOST_SEED, UserError
from tn_core.protocols import SplitName

from .images import Images

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["GaussianGrid", "TwoGaussians"]

_MEANS = (0.1, 1.0)
_DEVIATION = 0.1
_SIDE = (0.1, 0.3, 0.5, 0.7, 0.9)


class Drawn(Images):
    """Numbers drawn from a seed.

    Arguments:
        seed: of the draws; the same seed gives the same data.
        missing: share of the training labels to hide, from 0 to 1; each label of each item on its own.
        missing_seed: seed of the choice of hidden labels.
        train_size: keep only this many training items, a fixed random choice; all of them if not given.

    Raises:
        UserError: if a number is out of its range.
    """

    items: Mapping[SplitName, int]

    def __init__(
        self, *, seed: int = 0, missing: float = 0.0, missing_seed: int = 0, train_size: int | None = None
    ) -> None:
        super().__init__(missing=missing, missing_seed=missing_seed, train_size=train_size)
        if not 0 <= seed <= MOST_SEED:
            raise UserError(f"seed is a whole number from 0 to {MOST_SEED}, not {seed}")
        self.seed = seed

    def random(self, name: SplitName) -> Any:
        """A generator for a part; NumPy promises never to change what RandomState draws."""
        import numpy as np

        return np.random.RandomState([self.seed, list(self.items).index(name)])

    def _checked(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        return self.read(name)  # drawn here: no foreign files to be checked, and no images of uint8


class TwoGaussians(Drawn):
    """50,000 + 10,000 numbers from an even mixture of two Gaussians, N(0.1, 0.1) and N(1, 0.1).

    CP-VAE's toy data. The paper does not say what the second 0.1 is: it is taken to be the standard deviation. Items
    are float32 of shape (1,); the label says which Gaussian an item was drawn from. Half of the upper Gaussian, and a
    sixth of the lower, lie outside [0, 1]: train with ``--model.likelihood gaussian_real``.
    """

    shape: tuple[int, ...] = (1,)
    labels: Mapping[str, Sequence[str]] = {"component": ("low", "high")}
    items: Mapping[SplitName, int] = {"train": 50_000, "test": 10_000}

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        """Returns numbers, float32 (items, 1), and labels, whole numbers (items, 1)."""
        import numpy as np

        random = self.random(name)
        component = random.randint(2, size=(self.items[name], 1))
        x = random.normal(np.array(_MEANS)[component], _DEVIATION)
        return x.astype(np.float32), component.astype(np.int64)


class GaussianGrid(Drawn):
    """100,000 + 10,000 points from 25 Gaussians on a grid, on which GANs lose modes.

    The grid of the literature, means from -4 to 4 two apart and deviations of 0.05, in the unit square: means from 0.1
    to 0.9, deviations of 0.005. Items are float32 of shape (2,); the labels say which column and row of the grid an
    item is of.

    Attributes:
        centres: the means, float (25, 2).
        deviation: of every Gaussian, in both directions.
    """

    shape: tuple[int, ...] = (2,)
    labels: Mapping[str, Sequence[str]] = {name: tuple("12345") for name in ("column", "row")}
    items: Mapping[SplitName, int] = {"train": 100_000, "test": 10_000}
    deviation: float = 0.005

    @property
    def centres(self) -> "Tensor":
        """Column by column."""
        import torch

        return torch.cartesian_prod(torch.tensor(_SIDE), torch.tensor(_SIDE))

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        """Returns points, float32 (items, 2), and labels, whole numbers (items, 2)."""
        import numpy as np

        random = self.random(name)
        places = random.randint(len(_SIDE), size=(self.items[name], 2))
        x = random.normal(np.array(_SIDE)[places], self.deviation)
        return x.astype(np.float32), places.astype(np.int64)
