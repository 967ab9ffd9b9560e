"""Sets of parts as tensors: one row a set, padded, so that sets of different sizes share a batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tn_core.protocols import Interval

__all__ = ["Parts", "Schema"]


class Parts(NamedTuple):
    r"""The parts of each whole.

    Attributes:
        category: long (\*batch, places), -1 in places without a part.
        numbers: what else is told of a part, (\*batch, places, numbers), 0 in places without a part.
    """

    category: Tensor
    numbers: Tensor

    @property
    def present(self) -> Tensor:
        r"""Which places hold a part, bool (\*batch, places)."""
        return self.category >= 0

    @property
    def sizes(self) -> Tensor:
        r"""How many parts each whole has, long (\*batch,)."""
        return self.present.sum(-1)


class Schema:
    r"""What a part is: one of so many categories, and perhaps some numbers.

    A set is written as the labels of a data set are: part by part its category and then its numbers. It is long
    (\*batch, places), -1 for no part, where parts have no numbers; else float (\*batch, places \* (1 + numbers)), NaN
    for no part.

    Arguments:
        categories: how many there are.
        numbers: the interval of each number that is told.

    Raises:
        ValueError: if there is no category.
    """

    def __init__(self, categories: int, numbers: Sequence[Interval] = ()) -> None:
        if categories < 1:
            raise ValueError(f"parts need at least one category, got {categories}")
        self.categories, self.numbers = categories, tuple(numbers)

    @classmethod
    def of(cls, labels: Sequence[int | Interval]) -> tuple["Schema", int]:
        """What a data set's labels say of a part, and how many places there are.

        Arguments:
            labels: for each place its number of categories and the intervals of its numbers, all places the same.

        Raises:
            ValueError: if the labels are not those of sets of parts.
        """
        group = list(labels[:1])
        while len(group) < len(labels) and isinstance(labels[len(group)], Interval):
            group.append(labels[len(group)])
        places = len(labels) // max(1, len(group))
        first, *numbers = group or [0]
        if isinstance(first, Interval) or first < 1 or list(labels) != group * places:
            raise ValueError(
                "sets of parts need for each part a label with its category and then its numbers, the same for all "
                f"parts, as the data sets sines and sites have; got {list(labels)}"
            )
        return cls(first, [n for n in numbers if isinstance(n, Interval)]), places

    @property
    def width(self) -> int:
        """How many labels a part has."""
        return 1 + len(self.numbers)

    @property
    def described(self) -> int:
        """How many numbers :meth:`describe` gives."""
        return self.categories + len(self.numbers)

    def read(self, y: Tensor | None, count: int | None = None) -> Parts:
        r"""Checks sets of parts and takes them apart.

        Arguments:
            y: as above, (batch, labels), or one set, (labels,); also (batch, places, 1 + numbers).
            count: how many sets there must be; one set then stands for all. None: any number.

        Raises:
            ValueError: if y is missing, of another shape or type, or holds something that is no part.
        """
        if y is None:
            raise ValueError("a whole needs its parts: y, the sets of parts, is missing")
        rows = y.flatten(-2) if self.numbers and y.ndim == 3 else y
        fits = rows.ndim == 1 or (rows.ndim == 2 and count in (None, len(rows)))
        if (
            not fits
            or rows.shape[-1] % self.width
            or rows.is_floating_point() != bool(self.numbers)
            or y.dtype == torch.bool
        ):
            kind, places = ("float", f"places * {self.width}") if self.numbers else ("long", "places")
            raise ValueError(
                f"y, the sets of parts, must be {kind} ({'batch' if count is None else count}, {places}) or "
                f"({places},), got {y.dtype} {tuple(y.shape)}"
            )
        rows = rows.unflatten(-1, (-1, self.width))
        if rows.ndim == 2:
            rows = rows.expand(1 if count is None else count, -1, -1)
        category, numbers = rows[..., 0], rows[..., 1:]
        if self.numbers:
            absent = category.isnan()
            category, numbers = category.masked_fill(absent, -1), numbers.masked_fill(absent.unsqueeze(-1), 0)
        bad = (category < -1) | (category >= self.categories) | (category != category.round())
        if bad.any() or not numbers.isfinite().all():
            raise ValueError(
                f"y must hold for each part a category 0..{self.categories - 1}"
                + (" and finite numbers, or NaN for no part" if self.numbers else ", or -1 for no part")
            )
        return Parts(category.long(), numbers)

    def write(self, parts: Parts) -> Tensor:
        r"""The sets as labels, the inverse of :meth:`read`."""
        if not self.numbers:
            return parts.category
        rows = torch.cat([parts.category.to(parts.numbers).unsqueeze(-1), parts.numbers], -1)
        return rows.masked_fill(~parts.present.unsqueeze(-1), torch.nan).flatten(-2)

    def describe(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        r"""Each part for a network, (\*batch, places, categories + numbers): one-hot, and scaled to [-1, 1]."""
        one_hot = functional.one_hot(parts.category.clamp_min(0), self.categories).to(dtype)
        if not self.numbers:
            return one_hot
        low, high = (one_hot.new_tensor([getattr(n, end) for n in self.numbers]) for end in ("low", "high"))
        return torch.cat([one_hot, (2 * parts.numbers.to(dtype) - low - high) / (high - low)], -1)

    def draw(self, count: int, places: int) -> Tensor:
        """Draws sets of 1 to ``places`` parts, each size equally often, and each category and number uniformly."""
        present = torch.arange(places) < torch.randint(1, places + 1, (count, 1))
        category = torch.randint(self.categories, (count, places)).where(present, -1)
        return self.write(Parts(category, self.numbers_at(torch.rand(count, places, len(self.numbers)))))

    def choose(self, allowed: Sequence[Tensor | None], count: int) -> Tensor:
        """Draws sets of which it is said label by label what they may be.

        Arguments:
            allowed: for each label None, or a bool mask of the categories that the part may have, or its number. Where
                nothing is said of a category there is no part; a number of which nothing is said is uniform.
            count: how many sets.

        Raises:
            ValueError: if that is not one entry a label.
        """
        if len(allowed) % self.width:
            raise ValueError(f"there are {self.width} labels a part, got {len(allowed)} in all")
        places = [allowed[k : k + self.width] for k in range(0, len(allowed), self.width)]
        numbers = self.numbers_at(torch.rand(count, len(places), len(self.numbers)))
        category = torch.full((count, len(places)), -1)
        for k, (mask, *told) in enumerate(places):
            if mask is not None:
                category[:, k] = torch.multinomial(mask.float().reshape(-1), count, replacement=True)
            for j, number in enumerate(told):
                if number is not None:
                    numbers[:, k, j] = number
        return self.write(Parts(category, numbers))

    def numbers_at(self, uniform: Tensor) -> Tensor:
        r"""The numbers of parts, evenly spread over their intervals, by uniform ones (\*batch, numbers)."""
        low, high = uniform.new_tensor([(n.low, n.high) for n in self.numbers]).reshape(-1, 2).unbind(1)
        return low + (high - low) * uniform
