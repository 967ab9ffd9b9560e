"""Labels, any of which may be unknown, as what networks take and give."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LabelDecoder", "Labels", "mean_where_known", "number_of_values", "perceptron"]


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with LeakyReLU between them, as TRIP's appendix C has for labels."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def number_of_values(sizes: Sequence[Any]) -> int:
    """Of all labels together.

    Raises:
        ValueError: if a label is continuous.
    """
    for j, size in enumerate(sizes):
        if not isinstance(size, int):
            raise ValueError(f"label {j} is continuous; this model takes categorical labels only")
    return sum(sizes)


def mean_where_known(log_p: Tensor, known: Tensor) -> Tensor:
    """The mean of log p(y_ob | ...), (batch,), over the labelled items, where one with half of its labels counts half.

    Arguments:
        log_p: (batch,), zero where no label is known.
        known: bool (batch, labels).
    """
    return log_p.sum() / known.to(log_p).mean(-1).sum().clamp_min(1)


class Labels(nn.Module):
    """The labels of a model: their numbers of values, and how often each value was seen in training.

    Arguments:
        sizes: the number of values of each label.

    Raises:
        ValueError: if there is no label, or one with fewer than two values.
    """

    counts: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.total = number_of_values(sizes)
        if not sizes or min(sizes) < 2:
            raise ValueError(f"a model of labels needs at least one, of at least 2 values each; got {list(sizes)}")
        self.sizes = tuple(sizes)
        self.register_buffer("counts", torch.ones(self.total))

    def forward(self, y: Tensor) -> Tensor:
        """Labels long (batch, labels) as numbers (batch, total): one-hot, all zero where a label is unknown."""
        if y.shape[-1] != len(self.sizes):
            raise ValueError(f"y must have shape (batch, {len(self.sizes)}), got {tuple(y.shape)}")
        parts = [functional.one_hot(v + 1, size + 1)[..., 1:] for v, size in zip(y.unbind(-1), self.sizes, strict=True)]
        return torch.cat(parts, -1).to(self.counts)

    @torch.no_grad()
    def count(self, y: Tensor) -> None:
        """Takes note of how often values occur."""
        self.counts += self(y).sum(0)

    def values(self, known: Any, count: int, *, complete: bool) -> Tensor:
        """What is known of the labels as values, long (count, labels), -1 where unknown.

        Of a set of values one is drawn, as often as it was seen in training.

        Arguments:
            known: None; integers (labels,) or (count, labels), -1 unknown; or a sequence with an entry a label: None,
                integers () or (count,), or a bool mask (values,) or (count, values) of the values allowed.
            count: the number of rows.
            complete: whether what is unknown is drawn as well, each label on its own.

        Raises:
            ValueError: if a shape does not fit, or a value is out of range.
        """
        labels = len(self.sizes)
        if known is None:
            known = [None] * labels
        elif isinstance(known, Tensor):
            if known.shape not in ((labels,), (count, labels)):
                raise ValueError(f"y must have shape ({labels},) or ({count}, {labels}), got {tuple(known.shape)}")
            known = known.unbind(-1)
        if len(known) != labels:
            raise ValueError(f"y must have one entry for each of {labels} labels, got {len(known)}")
        columns = []
        for j, (entry, size, seen) in enumerate(zip(known, self.sizes, self.counts.split(self.sizes), strict=True)):
            if entry is not None and entry.dtype == torch.bool:
                if entry.shape[-1] != size or not bool(entry.any(-1).all()):
                    raise ValueError(f"label {j}: a set must allow at least one of its {size} values")
                allowed = (seen * entry.to(seen)).expand(count, -1)
                columns.append(torch.multinomial(allowed, 1).squeeze(1))
                continue
            value = torch.full((), -1) if entry is None else entry
            if bool(((value < -1) | (value >= size)).any()):
                raise ValueError(f"label {j} has the values 0 to {size - 1}, and -1 for unknown")
            value = value.to(self.counts.device).expand(count)
            drawn = torch.multinomial(seen, count, replacement=True) if complete else value
            columns.append(torch.where(value < 0, drawn, value))
        return torch.stack(columns, -1)


class LabelDecoder(nn.Module):
    """p(y | z): every label a softmax of one fully connected network (TRIP, appendix C: two layers of 64).

    Arguments:
        features: the number of latents.
        sizes: the number of values of each label.
        hidden: units of the two layers.
    """

    def __init__(self, features: int, sizes: Sequence[int], hidden: int = 64) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.layers = perceptron(features, hidden, hidden, sum(sizes))

    def log_prob(self, z: Tensor, y: Tensor) -> Tensor:
        """log p(y_ob | z) in nats, (*samples, batch): z (*samples, batch, features), y (batch, labels), -1 unknown."""
        total: Tensor = z.new_zeros(z.shape[:-1])
        for logits, value in zip(self.layers(z).split(self.sizes, -1), y.unbind(-1), strict=True):
            chosen = value.clamp_min(0).expand(z.shape[:-1]).unsqueeze(-1)
            found = logits.log_softmax(-1).gather(-1, chosen).squeeze(-1)
            total = total + torch.where(value < 0, 0, found)
        return total

    def probabilities(self, z: Tensor) -> list[Tensor]:
        """For each label (batch, values)."""
        return [logits.softmax(-1) for logits in self.layers(z).split(self.sizes, -1)]
