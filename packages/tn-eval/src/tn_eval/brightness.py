"""A continuous label for images of any data set: how bright they are."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated

from tn_core.components import Component
from tn_core.protocols import Data, Interval, Split, SplitName, Values, to_float
from tn_eval.images import check_hiding, hide

__all__ = ["Brightness"]


class Brightness:
    """Another data set's images with one more label, ``brightness``: the mean of an image's values, from 0 to 1.

    Arguments:
        of: the data set.
        missing: share of the training images whose brightness is hidden, from 0 to 1. A brightness hidden at one rate
            is hidden at every higher rate too.
        missing_seed: seed of the choice of those.

    Raises:
        UserError: if a number is out of its range.
    """

    def __init__(
        self, *, of: Annotated[Data, Component("datasets", "digits")], missing: float = 0.0, missing_seed: int = 0
    ) -> None:
        check_hiding(missing, missing_seed)
        self.of, self.missing, self.missing_seed = of, missing, missing_seed
        self.shape = of.shape

    @cached_property
    def labels(self) -> Mapping[str, Values]:
        """Those of the data set, and the brightness: its interval holds all but a hundredth of the training images."""
        import torch

        ends = torch.tensor([0.005, 0.995])
        low, high = self.split("train").labels[:, -1].quantile(ends).tolist()
        return {**self.of.labels, "brightness": Interval(round(low, 4), round(high, 4))}

    def split(self, name: SplitName) -> Split:
        """Returns one part, ``"train"`` or ``"test"``; it is made once and kept."""
        return self._train if name == "train" else self._test

    @cached_property
    def _train(self) -> Split:
        return self._part(self.of.split("train"), self.missing)

    @cached_property
    def _test(self) -> Split:
        return self._part(self.of.split("test"), 0)

    def _part(self, part: Split, missing: float) -> Split:
        import torch

        brightness = torch.cat([to_float(x).flatten(1).mean(1, keepdim=True) for x in part.x.split(10_000)])
        known = part.labels.to(brightness)
        if not part.labels.is_floating_point():
            known[part.labels < 0] = torch.nan
        hidden = torch.from_numpy(hide((len(part), 1), missing, self.missing_seed))
        return Split(
            part.x, torch.cat([known, brightness], 1), torch.cat([part.hidden, hidden], 1), dynamic=part.dynamic
        )
