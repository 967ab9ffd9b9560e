r"""A prior over latents and labels: one diagonal Gaussian for every combination of label values.

    p(z, y) = w_y prod_k N(z_k; mu_{y,k}, sigma_{y,k}^2)

Whatever is not known of the labels is summed out, so every density below is exact.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical as Choice
from torch.distributions import Independent, Normal
from zuko.lazy import LazyDistribution

from tn_priors.labels import Categorical, Known, Label, as_label, categorical_evidence
from tn_priors.simple import DiagonalMixture

__all__ = ["ClassGaussian"]

MOST = 10_000
"""The largest number of combinations of label values that is accepted."""


class ClassGaussian(LazyDistribution):
    """A Gaussian for every combination of label values; without labels a single one.

    Arguments:
        features: the number of latents.
        labels: the labels, all categorical: ``Categorical`` or the number of values.
        mean_scale: the means start at a normal draw of this standard deviation, so that the classes differ.

    Raises:
        ValueError: if a number is out of its range, a label is not categorical or there are too many combinations.

    Example:
        >>> prior = ClassGaussian(features=8, labels=[10])
        >>> prior(torch.tensor([[3], [-1]])).sample((2,)).shape
        torch.Size([2, 2, 8])
    """

    def __init__(self, features: int, labels: Sequence[int | Label] = (), *, mean_scale: float = 1.0) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"features must be at least 1, got {features}")
        if not mean_scale >= 0:
            raise ValueError(f"mean_scale must not be negative, got {mean_scale}")
        self.features = features
        self.labels = tuple(as_label(label) for label in labels)
        sizes = []
        for j, label in enumerate(self.labels):
            if not isinstance(label, Categorical):
                raise ValueError(f"label {j} must be categorical, got {label}")
            sizes.append(label.size)
        self.sizes = tuple(sizes)
        count = math.prod(sizes)
        if count > MOST:
            raise ValueError(f"the labels have {count} combinations of values, more than {MOST}")
        # a row for every combination, the last label's value changing fastest
        self.logits = nn.Parameter(torch.zeros(count))
        self.means = nn.Parameter(mean_scale * torch.randn(count, features))
        self.log_deviations = nn.Parameter(torch.zeros(count, features))

    def forward(self, y: Known = None) -> "FiniteMixture":
        r"""Returns p(z | what is known of the labels).

        Arguments:
            y: None: nothing; a long tensor (\*batch, labels), -1 where unknown; or a sequence with an entry a label:
                None, integers (\*batch,), a bool mask (\*batch, values) or log weights (\*batch, values).

        Raises:
            ValueError: if a shape does not fit or a value is out of range.
        """
        logits = self._joint(self._evidence(y))
        shape = (*logits.shape, self.features)
        gaussians = Normal(self.means.expand(shape), self.log_deviations.exp().expand(shape), validate_args=False)
        return FiniteMixture(
            Choice(logits=logits, validate_args=False),
            Independent(gaussians, 1, validate_args=False),
            validate_args=True,
        )

    def log_prob_labels(self, y: Known) -> Tensor:
        r"""Returns log p(known labels), (\*batch,), in nats."""
        return self._joint(self._evidence(y)).logsumexp(-1)

    def log_prob_joint(self, z: Tensor, y: Known = None) -> Tensor:
        r"""Returns log p(z, known labels), (\*batch,), in nats."""
        found: Tensor = self(y).log_prob(z) + self.log_prob_labels(y)
        return found

    def label_posteriors(self, z: Tensor, y: Known = None) -> list[Tensor]:
        r"""Returns for each label the probabilities (\*batch, values) given the latents and the other known labels.

        Raises:
            ValueError: if there are no labels, or as the call does.
        """
        if not self.labels:
            raise ValueError("this prior has no labels")
        evidence = self._evidence(y)
        _check_finite(z)
        # log p(z, every combination), (*batch, combinations)
        gaussians = Independent(Normal(self.means, self.log_deviations.exp(), validate_args=False), 1)
        joint = self._joint([None] * len(self.sizes)) + gaussians.log_prob(z.unsqueeze(-2))
        found = []
        for j, size in enumerate(self.sizes):
            others = joint + self._spread([None if i == j else e for i, e in enumerate(evidence)])
            table = others.unflatten(-1, (math.prod(self.sizes[:j]), size, -1))
            found.append(table.logsumexp((-3, -1)).softmax(-1))
        return found

    def _evidence(self, y: Known) -> list[Tensor | None]:
        """The log weights of every label's values, None where nothing is known."""
        count = len(self.sizes)
        if y is None:
            return [None] * count
        if isinstance(y, Tensor) and (y.ndim < 1 or y.shape[-1] != count):
            raise ValueError(f"y must have shape (*batch, {count}), got {tuple(y.shape)}")
        known = list(y.unbind(-1)) if isinstance(y, Tensor) else list(y)
        if len(known) != count:
            raise ValueError(f"y must have one entry for each of {count} labels, got {len(known)}")
        return [
            None if value is None else categorical_evidence(value, size, f"label {j}").to(self.logits)
            for j, (value, size) in enumerate(zip(known, self.sizes, strict=True))
        ]

    def _spread(self, evidence: Sequence[Tensor | None]) -> Tensor:
        r"""The sum of the labels' log weights for every combination, (\*batch, combinations)."""
        total = self.logits.new_zeros(1)
        for e, size in zip(evidence, self.sizes, strict=True):
            part = self.logits.new_zeros(size) if e is None else e
            total = (total.unsqueeze(-1) + part.unsqueeze(-2)).flatten(-2)
        return total

    def _joint(self, evidence: Sequence[Tensor | None]) -> Tensor:
        r"""log p(combination, known labels), (\*batch, combinations)."""
        return self.logits.log_softmax(-1) + self._spread(evidence)

    def extra_repr(self) -> str:
        """The numbers of latents and of values."""
        return f"features={self.features}, labels={list(self.sizes)}"


class FiniteMixture(DiagonalMixture):
    """A mixture of diagonal Gaussians that refuses infinite values; NaN it refuses anyway."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        _check_finite(value)
        found: Tensor = DiagonalMixture.log_prob(self, value)
        return found


def _check_finite(z: Tensor) -> None:
    if not bool(torch.isfinite(z).all()):
        raise ValueError("latents must be finite, got NaN or infinity")
