"""Grey images of any data set stacked into colour images: a thousand modes of ten digits.

References:
    Metz et al., Unrolled Generative Adversarial Networks, 2017, section 3.3.1, https://arxiv.org/abs/1611.02163
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated

from tn_core.components import Component
from tn_core.errors import MOST_SEED, UserError
from tn_core.protocols import Data, Split, SplitName, Values
from tn_eval.images import check_hiding, hide

__all__ = ["Stacked"]

_CHANNELS = ("red", "green", "blue")


class Stacked:
    """Images of three channels, each a grey image of another data set, drawn anew with replacement.

    There are as many items in each part as the other data set has there. The labels ``red``, ``green`` and ``blue`` are
    those of the three images, each the other data set's only label: of ten digits, 1,000 combinations.

    Arguments:
        of: the data set, of grey images with one label.
        seed: of the draws; the same seed gives the same data.
        missing: share of the training labels to hide, from 0 to 1; each label of each item on its own.
        missing_seed: seed of the choice of hidden labels.

    Raises:
        UserError: if a number is out of its range, or the data set is not of that kind.
    """

    def __init__(
        self,
        *,
        of: Annotated[Data, Component("datasets", "digits")],
        seed: int = 0,
        missing: float = 0.0,
        missing_seed: int = 0,
    ) -> None:
        check_hiding(missing, missing_seed)
        if not 0 <= seed <= MOST_SEED:
            raise UserError(f"seed is a whole number from 0 to {MOST_SEED}, not {seed}")
        if len(of.shape) != 3 or of.shape[0] != 1 or len(of.labels) != 1:
            raise UserError(
                f"stacked needs grey images, of shape (1, height, width), with one label; {type(of).__name__} has "
                f"shape {tuple(of.shape)} and {len(of.labels)} labels"
            )
        self.of, self.seed, self.missing, self.missing_seed = of, seed, missing, missing_seed
        self.shape = (len(_CHANNELS), *of.shape[1:])
        (values,) = of.labels.values()
        self.labels: Mapping[str, Values] = dict.fromkeys(_CHANNELS, values)

    def split(self, name: SplitName) -> Split:
        """Returns one part, ``"train"`` or ``"test"``; it is made once and kept."""
        return self._train if name == "train" else self._test

    @cached_property
    def _train(self) -> Split:
        return self._part("train", self.missing)

    @cached_property
    def _test(self) -> Split:
        return self._part("test", 0)

    def _part(self, name: SplitName, missing: float) -> Split:
        import numpy as np
        import torch

        part = self.of.split(name)
        # NumPy promises never to change what RandomState draws
        random = np.random.RandomState([self.seed, ("train", "test").index(name)])
        chosen = torch.from_numpy(random.randint(len(part), size=(len(part), len(_CHANNELS))))
        hidden = torch.from_numpy(hide(tuple(chosen.shape), missing, self.missing_seed))
        return Split(part.x[chosen, 0], part.labels[chosen, 0], hidden, dynamic=part.dynamic)
