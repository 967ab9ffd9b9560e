"""A data set that is drawn, not read: numbers from two Gaussians.

References:
    Lavda, Gregorová and Kalousis, Improving VAE generations of multimodal data through data-dependent conditional
    priors (CP-VAE), 2019, section 5.1.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tn_core.errors import MOST_SEED, UserError
from tn_core.protocols import SplitName

from .images import Images

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TwoGaussians"]

_MEANS = (0.1, 1.0)
_DEVIATION = 0.1
_ITEMS = {"train": 50_000, "test": 10_000}


class TwoGaussians(Images):
    """50,000 + 10,000 numbers from an even mixture of two Gaussians, N(0.1, 0.1) and N(1, 0.1).

    CP-VAE's toy data. The paper does not say what the second 0.1 is: it is taken to be the standard deviation. Items
    are float32 of shape (1,); the label says which Gaussian an item was drawn from. Half of the upper Gaussian, and a
    sixth of the lower, lie outside [0, 1]: train with ``--model.likelihood gaussian_real``.

    Arguments:
        seed: of the draws; the same seed gives the same data.
        missing: share of the training labels to hide, from 0 to 1; each label of each item on its own.
        missing_seed: seed of the choice of hidden labels.
        train_size: keep only this many training items, a fixed random choice; all of them if not given.

    Raises:
        UserError: if a number is out of its range.
    """

    shape: tuple[int, ...] = (1,)
    labels: Mapping[str, Sequence[str]] = {"component": ("low", "high")}

    def __init__(
        self, *, seed: int = 0, missing: float = 0.0, missing_seed: int = 0, train_size: int | None = None
    ) -> None:
        super().__init__(missing=missing, missing_seed=missing_seed, train_size=train_size)
        if not 0 <= seed <= MOST_SEED:
            raise UserError(f"seed is a whole number from 0 to {MOST_SEED}, not {seed}")
        self.seed = seed

    def read(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        """Returns numbers, float32 (items, 1), and labels, whole numbers (items, 1)."""
        import numpy as np

        # NumPy promises never to change what RandomState draws
        random = np.random.RandomState([self.seed, list(_ITEMS).index(name)])
        component = random.randint(2, size=(_ITEMS[name], 1))
        x = random.normal(np.array(_MEANS)[component], _DEVIATION)
        return x.astype(np.float32), component.astype(np.int64)

    def _checked(self, name: SplitName) -> "tuple[NDArray[Any], NDArray[Any]]":
        return self.read(name)  # drawn here: no foreign files to be checked, and no images of uint8
