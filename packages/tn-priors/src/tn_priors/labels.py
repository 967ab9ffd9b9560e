"""Labels and what is known of them: evidence on a chain.

A label is categorical (one of several values) or continuous (a number, modelled by a mixture of Gaussians whose
component is a variable of the chain). What is known of it - the value, nothing, a set of values, a likelihood - is
turned into one log weight a value of its variable.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Categorical", "Continuous", "Known", "Label", "as_label", "categorical_evidence"]


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
"""What is known of the labels: a tensor (*batch, labels) of values, -1 or NaN where unknown; or a sequence with an
entry a label: None (unknown), values (*batch,), a bool mask (*batch, N_j) of the values allowed, or log weights
(*batch, N_j) as soft evidence."""


def as_label(label: "Label | int") -> Label:
    """An integer stands for a categorical label with so many values."""
    return Categorical(label) if isinstance(label, int) else label


def categorical_evidence(known: Tensor, size: int, batch_ndim: int, name: str) -> Tensor:
    r"""The log weights of a categorical label's values.

    Arguments:
        known: values (\*batch,), -1 (or NaN) unknown; or a bool mask (\*batch, size); or log weights (\*batch, size).
        size: the number of values.
        batch_ndim: the number of batch axes, which tells values from masks and weights.
        name: what to call the label in errors.

    Returns:
        (\*batch, size).

    Raises:
        ValueError: if a value is out of range or a shape does not fit.
    """
    if known.ndim == batch_ndim + 1:
        if known.shape[-1] != size:
            raise ValueError(f"{name} has {size} values; a set or weights of {known.shape[-1]} do not fit")
        if known.dtype == torch.bool:
            if not bool(known.any(-1).all()):
                raise ValueError(f"{name}: an empty set of values rules everything out")
            return torch.zeros(known.shape, device=known.device).masked_fill(~known, -torch.inf)
        return known
    if known.is_floating_point():
        known = torch.where(torch.isnan(known), -1, known)
        if not bool((known == known.round()).all()):
            raise ValueError(f"{name} is categorical: its values are 0 to {size - 1} (or -1, NaN: unknown)")
    index = known.long()
    if bool(((index < -1) | (index >= size)).any()):
        wrong = index[(index < -1) | (index >= size)].flatten()[0].item()
        raise ValueError(f"{name} has values 0 to {size - 1} (-1: unknown), got {wrong}")
    allowed = (index.unsqueeze(-1) == torch.arange(size, device=index.device)) | (index == -1).unsqueeze(-1)
    return torch.zeros(allowed.shape, device=index.device).masked_fill(~allowed, -torch.inf)
