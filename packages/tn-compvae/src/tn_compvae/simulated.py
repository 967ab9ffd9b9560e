"""What the problems of this package have in common: a simulator draws wholes of parts, without end or from a seed.

An item is a set of parts that are told, and what is hidden: details of each part, and what all parts of a whole share.
All that is random in an item is a row of uniform numbers. Those of the two splits come from a seed, by NumPy, which
promises never to change its stream; those of training are drawn by torch where the model computes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tn_compvae.sets import Parts, Schema
from tn_core.protocols import Interval, Split, SplitName, Values

__all__ = ["Hidden", "Simulated"]

_ROWS = 500  # items computed at a time
_LEAST = 1e-7  # of a uniform number, whose normal quantile is then finite


class Hidden(NamedTuple):
    """What is not told of a whole, as uniform numbers in (0, 1).

    Attributes:
        parts: of each part, (batch, places, details).
        whole: what all parts share, (batch, shared).
    """

    parts: Tensor
    whole: Tensor


class Simulated(ABC):
    """Wholes of 1 to ``parts`` parts, every number of parts equally often, and every category for each of them.

    The labels of an item are its set of parts: "part k" is the category of its k-th part, followed by the numbers that
    are told of it. -1 (NaN where there are numbers) says that there is no k-th part, not that the part is unknown. The
    parts come first, in no particular order.

    Arguments:
        shape: of a whole.
        categories: their names.
        numbers: what else is told of a part, by name, drawn uniformly from the interval.
        details: how many hidden numbers a part has.
        shared: how many hidden numbers all parts share.
        parts: the largest number of parts.
        items: in the training part, and in an epoch of what is drawn without end.
        test_items: in the test part.
        seed: of both parts.
        grow_every: the largest number of parts in training without end is 2 at first and grows by one whenever so many
            items were drawn; 0: ``parts`` from the start.
        held_out: sets of two or more parts whose categories, counted from 0, sum to a multiple of it are kept out of
            the training data; 0: none.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        categories: Sequence[str],
        *,
        numbers: Mapping[str, Interval] | None = None,
        details: int,
        shared: int = 0,
        parts: int,
        items: int,
        test_items: int,
        seed: int,
        grow_every: int,
        held_out: int,
    ) -> None:
        for name, value in (("parts", parts), ("items", items), ("test_items", test_items)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, value in (("seed", seed), ("grow_every", grow_every)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if held_out and not 2 <= held_out <= len(categories):
            raise ValueError(
                f"held_out must be 0 or from 2 to the number of categories, {len(categories)}, got {held_out}"
            )
        told = dict(numbers or {})
        self.shape = tuple(shape)
        self.schema = Schema(len(categories), list(told.values()))
        self.labels: dict[str, Values] = {}
        for k in range(1, parts + 1):
            self.labels |= {f"part {k}": list(categories), **{f"part {k} {name}": told[name] for name in told}}
        self.parts, self.details, self.shared = parts, details, shared
        self.seed, self.grow_every, self.held_out = seed, grow_every, held_out
        self._items = {"train": items, "test": test_items}

    @abstractmethod
    def simulate(self, y: Tensor, hidden: Hidden) -> Tensor:
        """The wholes of sets of parts, (batch, *shape)."""

    def split(self, name: SplitName) -> Split:
        """Returns one part: x float32 (items, *shape), labels (items, labels), none hidden.

        Raises:
            ValueError: if the name is neither "train" nor "test".
        """
        if name not in self._items:
            raise ValueError(f"name must be 'train' or 'test', got {name!r}")
        random = np.random.RandomState([self.seed, list(self._items).index(name)])
        uniform = torch.from_numpy(random.random_sample((self._items[name], self._width)))
        found = [self._items_of(rows, self.parts, held_out=name == "train") for rows in uniform.split(_ROWS)]
        x, y = torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])
        y = y.float() if self.schema.numbers else y
        return Split(x, y, torch.zeros_like(y, dtype=torch.bool))

    def draw(self, count: int, seen: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws training items where the generator is: x float32 (count, *shape) and y (count, labels so far).

        Arguments:
            count: how many.
            seen: how many were drawn before.
            generator: of what is random.
        """
        most = min(self.parts, 2 + seen // self.grow_every) if self.grow_every else self.parts
        uniform = torch.rand(count, self._width, generator=generator, device=generator.device)
        x, y = self._items_of(uniform, most, held_out=True)
        return x, y[:, : most * self.schema.width]

    def hidden(self, y: Tensor, generator: torch.Generator | None = None) -> Hidden:
        """Draws what is not told of wholes with these sets of parts, float32."""
        parts = self.schema.read(y).category
        shapes = (*parts.shape, self.details), (len(parts), self.shared)
        drawn = (torch.rand(shape, generator=generator, device=y.device) for shape in shapes)
        return Hidden(*(uniform.clamp(_LEAST, 1 - _LEAST) for uniform in drawn))

    def alone(self, y: Tensor, hidden: Hidden) -> Tensor:
        """Each part as a whole by itself, (batch, places, *shape), 0 in places without a part."""
        parts = self.schema.read(y)
        shared = hidden.whole.repeat_interleave(parts.category.shape[1], 0)
        x = self.simulate(self._lone(parts), Hidden(hidden.parts.flatten(0, 1).unsqueeze(1), shared))
        return self._by_place(x, parts)

    def sets(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draws sets of so many parts, which may be more than ``parts``, (count, labels)."""
        uniform = torch.rand(count, size, self.schema.width, generator=generator, device=generator.device)
        return self.schema.write(self._told(uniform))

    def unseen(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Draws sets of so many parts that the training data do not have, (count, labels).

        Raises:
            ValueError: if there are none.
        """
        if not self.held_out or size < 2:
            raise ValueError(
                f"unseen sets have 2 parts or more and need data with held_out; "
                f"got {size} parts, held_out={self.held_out}"
            )
        drawn = self.sets(10 * self.held_out * (count + 10), size, generator)
        return drawn[self.schema.read(drawn).category.sum(1) % self.held_out == 0][:count]

    def wholes(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws a whole of each set, (batch, *shape)."""
        return self.simulate(y, self.hidden(y, generator))

    def sums(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws the parts of each set independently, each as a whole by itself, and adds them up, (batch, *shape)."""
        parts = self.schema.read(y)
        return self._by_place(self.wholes(self._lone(parts), generator), parts).sum(1)

    @property
    def _width(self) -> int:
        """Uniform numbers an item."""
        return 1 + self.shared + self.parts * (self.schema.width + self.details)

    def _items_of(self, uniform: Tensor, most: int, held_out: bool) -> tuple[Tensor, Tensor]:
        """Items of at most so many parts from rows of uniform numbers."""
        uniform = uniform.clamp(_LEAST, 1 - _LEAST)
        size, shared = 1 + (uniform[:, 0] * most).long(), uniform[:, 1 : 1 + self.shared]
        each = uniform[:, 1 + self.shared :].unflatten(1, (self.parts, -1))
        category, numbers = self._told(each[..., : self.schema.width])
        present = torch.arange(self.parts, device=uniform.device) < size.unsqueeze(1)
        if held_out and self.held_out:
            # one step up or down takes a sum away from the multiples
            wrong = (size > 1) & ((category * present).sum(1) % self.held_out == 0)
            first = category[:, 0]
            category[:, 0] = torch.where(wrong, torch.where(first > 0, first - 1, first + 1), first)
        y = self.schema.write(Parts(category.where(present, -1), numbers.where(present.unsqueeze(-1), 0)))
        return self.simulate(y, Hidden(each[..., self.schema.width :], shared)).float(), y

    def _told(self, uniform: Tensor) -> Parts:
        """Parts by uniform numbers (batch, places, 1 + numbers)."""
        category = (uniform[..., 0] * self.schema.categories).long()
        return Parts(category, self.schema.numbers_at(uniform[..., 1:]))

    def _lone(self, parts: Parts) -> Tensor:
        """Sets of one part each, those of all places one after the other."""
        return self.schema.write(Parts(*(value.flatten(0, 1).unsqueeze(1) for value in parts)))

    def _by_place(self, x: Tensor, parts: Parts) -> Tensor:
        """Wholes of such sets by whole and place, 0 in places without a part."""
        present = parts.present.reshape(*parts.present.shape, *[1] * len(self.shape))
        return x.unflatten(0, parts.present.shape).where(present, 0)
