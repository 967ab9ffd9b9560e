"""What data sets and models offer one another: small typed protocols, no base classes.

A model offers as many of the model protocols as make sense for it; the commands and ``tn-eval`` use whatever is
there. Batches are ``x`` or ``(x, y)``; ``x`` is float, images in [0, 1]; ``y`` is long ``(batch, labels)``, -1 where
the label is unknown; if any label is continuous, float, NaN where a label is unknown. A model that cannot be given
labels says so by an attribute ``has_labels`` that is False; one that has to be given them, as a model of wholes its
parts, by ``needs_labels`` that is True.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # the command line reads this module's names without importing torch
    from torch import Generator, Tensor

__all__ = [
    "Assigns",
    "Bounds",
    "Composes",
    "Data",
    "Decomposes",
    "Draws",
    "Encodes",
    "Imputes",
    "Interval",
    "Reconstructs",
    "Samples",
    "Simulates",
    "SimulatesParts",
    "Split",
    "SplitName",
    "Values",
    "all_unknown",
    "categorical_labels",
    "is_known",
    "to_float",
]

SplitName = Literal["train", "test"]


@dataclass(frozen=True)
class Interval:
    """The values of a continuous label.

    Attributes:
        low: below most of them; where a model of them, or a picture, starts
        high: above most of them; where it ends.

    Raises:
        ValueError: if low is not below high.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"an interval needs finite low < high, got {self.low} and {self.high}")


Values = Sequence[str] | Interval
"""The values of a label: the names of those of a categorical one, or a continuous one's interval."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        x: the data, (items, *shape); uint8 stands for [0, 1] in steps of 1/255.
        labels: the true labels, long (items, labels), -1 where the data set itself has none; if any label is
            continuous, float, NaN where there is none.
        hidden: bool (items, labels), True where training must not see the label.
        dynamic: whether x holds probabilities, from which training draws zeros and ones anew whenever it uses them
            (dynamic binarisation).
    """

    x: "Tensor"
    labels: "Tensor"
    hidden: "Tensor"
    dynamic: bool = False

    @property
    def observed(self) -> "Tensor":
        """The labels that training may see, (items, labels), -1 or NaN where unknown."""
        return self.labels.masked_fill(self.hidden, _mark(self.labels))

    def __len__(self) -> int:
        return len(self.x)


def categorical_labels(labels: Mapping[str, Values]) -> dict[str, Sequence[str]]:
    """The labels that are not continuous."""
    return {name: values for name, values in labels.items() if not isinstance(values, Interval)}


def _mark(y: "Tensor") -> float:
    return math.nan if y.is_floating_point() else -1


def is_known(y: "Tensor") -> "Tensor":
    """Which labels are known, bool, of the shape of ``y``."""
    return ~y.isnan() if y.is_floating_point() else y >= 0


def all_unknown(y: "Tensor") -> "Tensor":
    """Labels like ``y`` of which none is known."""
    return y.new_full(y.shape, _mark(y))


def to_float(x: "Tensor") -> "Tensor":
    """Data as floats: uint8 stands for [0, 1] in steps of 1/255."""
    return x.float() if x.is_floating_point() else x.float() / 255


@runtime_checkable
class Data(Protocol):
    """A data set."""

    shape: tuple[int, ...]
    """Shape of one item: (channels, height, width) for images."""

    labels: Mapping[str, Values]
    """Label names in order, each with its values."""

    def split(self, name: SplitName) -> Split:
        """Returns one part. Only the labels of ``train`` are ever hidden."""
        ...


@runtime_checkable
class Draws(Protocol):
    """A data set whose training items are drawn without end, where the model computes."""

    def draw(self, count: int, seen: int, generator: "Generator") -> "tuple[Tensor, Tensor]":
        """Returns x, float (count, *shape), and y (count, labels), on the generator's device.

        ``seen`` is how many items were drawn before; the labels may be fewer than those of the data set.
        """
        ...


@runtime_checkable
class Simulates(Data, Draws, Protocol):
    """A data set of wholes made of sets of parts, ``parts`` at most, which come from a known simulator."""

    parts: int

    def sets(self, count: int, size: int, generator: "Generator") -> "Tensor":
        """Draws sets of so many parts, each category equally often, as labels (count, labels)."""
        ...

    def unseen(self, count: int, size: int, generator: "Generator") -> "Tensor":
        """Draws sets of so many parts that the training data do not have; a ValueError if there are none."""
        ...

    def wholes(self, y: "Tensor", generator: "Generator | None" = None) -> "Tensor":
        """Draws a whole of each set, (batch, *shape)."""
        ...

    def sums(self, y: "Tensor", generator: "Generator | None" = None) -> "Tensor":
        """Draws the parts of each set independently, each as a whole by itself, and adds them up, (batch, *shape)."""
        ...


@runtime_checkable
class SimulatesParts(Simulates, Protocol):
    """One that says how the same parts look in other wholes; what is hidden of them has fields ``parts``, ``whole``."""

    def hidden(self, y: "Tensor", generator: "Generator | None" = None) -> Any:
        """Draws what is not told: ``parts`` (batch, places, details), ``whole`` (batch, shared)."""
        ...

    def simulate(self, y: "Tensor", hidden: Any) -> "Tensor":
        """The wholes, (batch, *shape)."""
        ...

    def alone(self, y: "Tensor", hidden: Any) -> "Tensor":
        """Each part as a whole by itself, (batch, places, *shape)."""
        ...


@runtime_checkable
class Composes(Protocol):
    """Takes wholes apart and puts parts together; sets of parts are written as labels, see the data sets."""

    def compose(self, y: "Tensor", count: int | None = None) -> Any:
        """Draws wholes of these sets, or ``count`` of one set, in a form of the model's own."""
        ...

    def extract(self, x: "Tensor", y: "Tensor") -> Any:
        """Finds the parts of observed wholes."""
        ...

    def add(self, composition: Any, parts: Any) -> Any:
        """Adds parts: sets of them, or those of another composition."""
        ...

    def remove(self, composition: Any, places: Sequence[int]) -> Any:
        """Removes the parts in these places."""
        ...

    def decode(self, composition: Any) -> "Tensor":
        """The wholes, (batch, *shape)."""
        ...


@runtime_checkable
class Samples(Protocol):
    """Draws new data."""

    def sample(self, count: int, y: "Tensor | None" = None) -> "Tensor":
        """Returns ``count`` items (count, *shape); ``y``: (count, labels) or (labels,), -1 or NaN unknown."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Has latents."""

    def encode(self, x: "Tensor") -> "Tensor":
        """Returns latents (batch, features): the posterior's mean where there is one."""
        ...

    def decode(self, z: "Tensor") -> "Tensor":
        """Returns the mean of the data given latents, (batch, *shape)."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Encodes and decodes."""

    def reconstruct(self, x: "Tensor") -> "Tensor":
        """Returns (batch, *shape)."""
        ...


@runtime_checkable
class Bounds(Protocol):
    """Bounds the log evidence of each example, in nats."""

    def elbo(self, x: "Tensor", y: "Tensor | None" = None) -> "Tensor":
        """Returns (batch,): a one-sample estimate of the evidence lower bound of log p(x, y_observed)."""
        ...

    def iwae(self, x: "Tensor", y: "Tensor | None" = None, samples: int = 100) -> "Tensor":
        """Returns (batch,): the importance-weighted bound of log p(x, y_observed)."""
        ...


@runtime_checkable
class Imputes(Protocol):
    """Says what unknown labels may be."""

    def impute(self, x: "Tensor", y: "Tensor | None" = None) -> "list[Tensor]":
        """Returns for each label what is held of it, given ``x`` and the other known labels.

        Of a categorical label the probabilities (batch, values), of a continuous one mean and standard deviation,
        (batch, 2).
        """
        ...


@runtime_checkable
class Assigns(Protocol):
    """Clusters. One that can draw from each has ``clusters``, their number, and ``sample(count, cluster=k)``."""

    def assign(self, x: "Tensor") -> "Tensor":
        """Returns cluster indices, long (batch,)."""
        ...


@runtime_checkable
class Decomposes(Protocol):
    """Says what its divergence from the prior consists of."""

    def decompose(self, x: "Tensor") -> "Mapping[str, float]":
        """Returns numbers in nats by name, with the items ``x`` as the whole of the data."""
        ...
