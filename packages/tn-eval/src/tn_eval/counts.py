"""Sets of parts as counts of their categories: what a conditional model without a notion of parts can be given."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from tn_core.components import Component
from tn_core.errors import UserError
from tn_core.protocols import Interval, Simulates, Split, SplitName, Values

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Counts"]


class Counts:
    """Another data set's wholes, with a label for each category: how many parts have it, from 0 to all.

    Arguments:
        of: a simulated data set of wholes made of sets of parts without numbers, such as sines.

    Raises:
        UserError: if the data set is not of that kind.
    """

    def __init__(self, *, of: Annotated[Simulates, Component("datasets", "sines")]) -> None:
        first, *others = of.labels.values() or [()]
        if not isinstance(of, Simulates) or isinstance(first, Interval) or any(values != first for values in others):
            raise UserError(f"counts needs simulated wholes whose parts have a category each, not {type(of).__name__}")
        self.of, self.parts, self.shape = of, of.parts, of.shape
        self._categories = len(first)
        numbers = [str(k) for k in range(of.parts + 1)]
        self.labels: Mapping[str, Values] = {f"number of {name}": numbers for name in first}

    def split(self, name: SplitName) -> Split:
        """Returns one part, ``"train"`` or ``"test"``."""
        import torch

        part = self.of.split(name)
        y = self._counted(part.labels)
        return Split(part.x, y, torch.zeros_like(y, dtype=torch.bool))

    def draw(self, count: int, seen: int, generator: "Generator") -> "tuple[Tensor, Tensor]":
        """Draws training items, see :class:`tn_core.protocols.Draws`."""
        x, y = self.of.draw(count, seen, generator)
        return x, self._counted(y)

    def sets(self, count: int, size: int, generator: "Generator") -> "Tensor":
        """Draws sets of so many parts, (count, categories)."""
        return self._counted(self.of.sets(count, size, generator))

    def unseen(self, count: int, size: int, generator: "Generator") -> "Tensor":
        """Draws sets of so many parts that the training data do not have."""
        return self._counted(self.of.unseen(count, size, generator))

    def wholes(self, y: "Tensor", generator: "Generator | None" = None) -> "Tensor":
        """Draws a whole of each set, (batch, *shape)."""
        return self.of.wholes(self._sets(y), generator)

    def sums(self, y: "Tensor", generator: "Generator | None" = None) -> "Tensor":
        """Draws the parts of each set independently, and adds them up, (batch, *shape)."""
        return self.of.sums(self._sets(y), generator)

    def _counted(self, y: "Tensor") -> "Tensor":
        """Sets of parts (batch, places), -1 for none, as counts (batch, categories)."""
        from torch.nn.functional import one_hot

        return one_hot(y + 1, self._categories + 1)[..., 1:].sum(1)

    def _sets(self, counts: "Tensor") -> "Tensor":
        """Counts as sets of parts, (batch, most parts of any)."""
        import torch

        category = torch.arange(self._categories, device=counts.device)
        rows = [category.repeat_interleave(row) for row in counts]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
