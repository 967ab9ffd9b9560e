"""Metrics of any model that offers the protocols of ``tn_core.protocols``.

Every metric returns a mapping from names to :class:`Value`: a number with its unit, which way is better, how many items
it was measured on, and the half width of its 95 % interval (normal approximation over the items).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tn_core.protocols import Bounds, Data, Imputes, Samples, to_float
from tn_eval.classifier import accuracy, cached_classifier

__all__ = ["Value", "bound_elbo", "bound_iwae", "condition_accuracy", "imputation"]


@dataclass(frozen=True)
class Value:
    """One measured number."""

    value: float
    interval: float
    unit: str
    better: str
    items: int

    @classmethod
    def of(cls, values: Tensor, unit: str, better: str) -> "Value":
        """The mean of one number an item."""
        values = values.double()
        spread = float(values.std()) if len(values) > 1 else math.nan
        return cls(float(values.mean()), 1.96 * spread / math.sqrt(len(values)), unit, better, len(values))

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.interval:.2g} {self.unit} ({self.items} items, {self.better} is better)"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: None if value != value else value for key, value in asdict(self).items()}  # JSON has no NaN


@torch.no_grad()
def bound_elbo(model: Bounds, data: Data, batch_size: int = 500) -> Mapping[str, Value]:
    """The evidence lower bound of log p(x) of the test items, one posterior sample each."""
    x = data.split("test").x
    found = [model.elbo(to_float(part)) for part in x.split(batch_size)]
    return {"elbo": Value.of(torch.cat(found), "nats per example", "higher")}


@torch.no_grad()
def bound_iwae(model: Bounds, data: Data, samples: int = 100, items: int = 1000) -> Mapping[str, Value]:
    """The importance-weighted bound of log p(x) of so many test items, always the same random choice."""
    x = data.split("test").x
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:items]  # test sets may be sorted
    x = x[chosen.sort().values]
    batch = max(1, 2000 // samples)
    found = [model.iwae(to_float(part), None, samples) for part in x.split(batch)]
    return {f"iwae_{samples}": Value.of(torch.cat(found), "nats per example", "higher")}


@torch.no_grad()
def condition_accuracy(
    model: Samples, data: Data, spec: Mapping[str, Any], items: int = 2000, batch_size: int = 500
) -> Mapping[str, Value]:
    """How often samples have the labels asked for, as a classifier trained apart sees them.

    The label sets asked for are drawn from the test items, complete, with replacement (TRIP, appendix E.1).
    """
    classifier, own = cached_classifier(data, spec)
    labels = data.split("test").labels
    labels = labels[(labels >= 0).all(1)]
    asked = labels[torch.randint(len(labels), (items,))]
    match = torch.cat([accuracy(classifier, model.sample(len(part), part), part) for part in asked.split(batch_size)])
    return {
        "condition_accuracy": Value.of(100 * match, "%", "higher"),
        "classifier_accuracy": Value.of(100 * own[~own.isnan()], "%", "higher"),
    }


@torch.no_grad()
def imputation(model: Imputes, data: Data, batch_size: int = 500) -> Mapping[str, Value]:
    """Accuracy and log score of the labels of the test items, all of them hidden from the model."""
    test = data.split("test")
    correct: dict[str, list[Tensor]] = {name: [] for name in data.labels}
    score: dict[str, list[Tensor]] = {name: [] for name in data.labels}
    for x, y in zip(test.x.split(batch_size), test.labels.split(batch_size), strict=True):
        posteriors = model.impute(to_float(x), torch.full_like(y, -1))
        for name, p, truth in zip(data.labels, posteriors, y.unbind(1), strict=True):
            known = truth >= 0
            correct[name].append((p.argmax(-1) == truth)[known].double())
            chosen = p.gather(-1, truth.clamp_min(0).unsqueeze(-1)).squeeze(-1)[known]
            score[name].append(chosen.double().clamp_min(1e-12).log())
    found = {}
    for name in data.labels:
        suffix = f"_{name}" if len(data.labels) > 1 else ""
        found[f"imputation_accuracy{suffix}"] = Value.of(100 * torch.cat(correct[name]), "%", "higher")
        found[f"imputation_log_score{suffix}"] = Value.of(torch.cat(score[name]), "nats per label", "higher")
    if len(data.labels) > 1:
        every = torch.cat([torch.cat(c) for c in correct.values()])
        found["imputation_accuracy"] = Value.of(100 * every, "%", "higher")
    return found
