"""Labels and what is known of them: evidence on a chain.

A label is categorical (one of several values) or continuous (a number, modelled by a mixture of Gaussians whose
component is a variable of the chain). What is known of it - the value, nothing, a set of values, a likelihood - is
turned into one log weight a value of its variable.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tn_core.protocols import Interval

__all__ = [
    "Categorical",
    "Continuous",
    "Known",
    "Label",
    "as_label",
    "can_look_at",
    "categorical_evidence",
    "integer_evidence",
]


def can_look_at(values: Tensor) -> bool:
    """Whether values are checked: on a device other than the CPU the host would have to wait for them."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


@dataclass(frozen=True)
class Categorical:
    """A label with finitely many values, 0 to ``size`` - 1.

    Raises:
        ValueError: if there are fewer than two values.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"a categorical label needs at least 2 values, got {self.size}")


@dataclass(frozen=True)
class Continuous:
    """A real-valued label, a mixture of ``components`` Gaussians given its neighbours on the chain.

    Arguments:
        components: the number of Gaussians.
        low: where the first mean starts.
        high: where the last mean starts.

    Raises:
        ValueError: if there is no component, or low is not below high.
    """

    components: int = 10
    low: float = -3.0
    high: float = 3.0

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"a continuous label needs at least 1 component, got {self.components}")
        if not self.low < self.high:
            raise ValueError(f"a continuous label needs low < high, got {self.low} and {self.high}")


Label = Categorical | Continuous
Known = Tensor | Sequence[Tensor | None] | None
"""What is known of the labels: a tensor (*batch, labels) of values, -1 (categorical) or NaN where unknown; or a
sequence with an entry a label. For a categorical label: None (unknown), integers (*batch,), a bool mask (*batch, N_j)
of the values allowed, or floats (*batch, N_j), log weights as soft evidence. For a continuous one: None or floats
(*batch,)."""


def as_label(label: "Label | Interval | int") -> Label:
    """An integer stands for a categorical label with so many values, an interval for a continuous label."""
    if isinstance(label, Interval):
        return Continuous(low=label.low, high=label.high)
    return Categorical(label) if isinstance(label, int) else label


def categorical_evidence(known: Tensor, size: int, name: str) -> Tensor:
    r"""The log weights of a categorical label's values.

    Arguments:
        known: integers (\*batch,), -1 unknown; or a bool mask (\*batch, size); or floats, log weights (\*batch, size).
        size: the number of values.
        name: what to call the label in errors.

    Returns:
        (\*batch, size).

    Raises:
        ValueError: if a shape does not fit; and, where the values lie on the CPU, if one is out of range or a set is
            empty. Elsewhere such evidence rules everything out.
    """
    if known.dtype == torch.bool or known.is_floating_point():
        if known.ndim < 1 or known.shape[-1] != size:
            raise ValueError(f"{name} has {size} values; a set or weights of shape {tuple(known.shape)} do not fit")
        if known.is_floating_point():
            return known
        if can_look_at(known) and not bool(known.any(-1).all()):
            raise ValueError(f"{name}: an empty set of values rules everything out")
        return torch.zeros(known.shape, device=known.device).masked_fill(~known, -torch.inf)
    return integer_evidence(known.unsqueeze(-1), [size], [name])[0]


def integer_evidence(values: Tensor, sizes: Sequence[int], names: Sequence[str]) -> list[Tensor]:
    r"""The log weights of the values of several categorical labels, all of them at once.

    Arguments:
        values: (\*batch, labels), integers, -1 unknown; or floats, as they stand among continuous labels, where NaN is
            unknown too.
        sizes: the number of values of each label.
        names: what to call each label in errors.

    Returns:
        For each label (\*batch, size).

    Raises:
        ValueError: where the values lie on the CPU, if one is out of range or not whole.
    """
    if values.is_floating_point():
        values = torch.where(torch.isnan(values), -1, values)
        wrong = values != values.round()
        if can_look_at(values) and bool(wrong.any()):
            name = names[int(wrong.nonzero()[0, -1])]
            raise ValueError(f"{name} is categorical: its values are whole numbers (-1 or NaN: unknown)")
        values = values.long()
    if can_look_at(values):
        wrong = (values < -1) | (values >= torch.tensor(sizes))
        if bool(wrong.any()):
            j = int(wrong.nonzero()[0, -1])
            raise ValueError(f"{names[j]} has values 0 to {sizes[j] - 1} (-1: unknown), got {int(values[wrong][0])}")
    known = values.unsqueeze(-1)
    allowed = (known == torch.arange(max(sizes), device=known.device)) | (known == -1)
    every = torch.zeros(allowed.shape, device=known.device).masked_fill(~allowed, -torch.inf)
    return [every[..., j, :size] for j, size in enumerate(sizes)]
