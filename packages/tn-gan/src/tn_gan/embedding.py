"""Labels as most conditional GANs have them: a vector for each value, beside noise. The baseline of learned priors.

As a prior, so that the two are compared by changing one argument: a generator that starts with a linear layer of noise
and embedded labels, side by side, is one of latents that are just these numbers.

References:
    Mirza and Osindero, Conditional Generative Adversarial Nets, 2014, https://arxiv.org/abs/1411.1784
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, constraints
from zuko.lazy import LazyDistribution

from tn_priors.labels import Known, categorical_evidence

__all__ = ["EmbeddedLabels", "LabelEmbedding"]


class LabelEmbedding(LazyDistribution):
    """Latents of which the first are standard normal and the last the sum of a learned vector for each label's value.

    They have no density. Labels are independent of one another; what is unknown is drawn as often as it was seen.

    Arguments:
        features: the number of latents.
        labels: the number of values of each label.
        size: how many of the latents the labels have.

    Raises:
        ValueError: if there are no labels, or the size leaves nothing for the noise.
    """

    def __init__(self, features: int, labels: Sequence[int], size: int = 8) -> None:
        super().__init__()
        if not labels or not all(isinstance(values, int) and values >= 2 for values in labels):
            raise ValueError(f"labels must be numbers of values, each at least 2; got {list(labels)}")
        if not 1 <= size < features:
            raise ValueError(f"size must be from 1 to {features - 1}, the number of latents less one; got {size}")
        self.features, self.labels, self.size = features, tuple(labels), size
        self.logits = nn.ParameterList(torch.zeros(values) for values in labels)
        self.vectors = nn.ParameterList(torch.randn(values, size) for values in labels)

    def forward(self, y: Known = None) -> "EmbeddedLabels":
        r"""Returns p(z | what is known of the labels), of batch shape (\*batch,).

        Arguments:
            y: None; integers (\*batch, labels), -1 unknown; or a sequence with an entry a label: None, integers
                (\*batch,), or a bool mask (\*batch, values) of the values allowed.

        Raises:
            ValueError: if a shape does not fit or a value is out of range.
        """
        return EmbeddedLabels(self._logits(y), list(self.vectors), self.features - self.size)

    def log_prob_labels(self, y: Known) -> Tensor:
        r"""log p(known labels), (\*batch,), in nats."""
        total: Any = 0
        for known, prior in zip(self._logits(y), self.logits, strict=True):
            total = total + known.logsumexp(-1) - prior.logsumexp(-1)
        found: Tensor = total
        return found

    def _logits(self, y: Known) -> list[Tensor]:
        """For each label the logits of its values given what is known of it."""
        entries = [None] * len(self.labels) if y is None else list(y.unbind(-1)) if isinstance(y, Tensor) else list(y)
        if len(entries) != len(self.labels):
            raise ValueError(f"y must have one entry for each of {len(self.labels)} labels, got {len(entries)}")
        return [
            logits if entry is None else logits + categorical_evidence(entry, len(logits), f"label {j}").to(logits)
            for j, (entry, logits) in enumerate(zip(entries, self.logits, strict=True))
        ]


class EmbeddedLabels(Distribution):
    r"""Noise beside the sum of a vector for each label, whose value is drawn.

    Arguments:
        logits: for each label (\*batch, values).
        vectors: for each label (values, size).
        noise: how many of the latents are noise.
    """

    has_rsample = True
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Sequence[Tensor], vectors: Sequence[Tensor], noise: int) -> None:
        self.logits, self.vectors, self.noise = logits, vectors, noise
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in logits))
        super().__init__(batch, Size([noise + vectors[0].shape[1]]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real vectors."""
        return constraints.real_vector

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws (\*sample_shape, \*batch, features), with gradients to the vectors."""
        shape = Size(sample_shape) + self.batch_shape
        total: Any = 0
        for logits, vectors in zip(self.logits, self.vectors, strict=True):
            total = total + vectors[Categorical(logits=logits.expand(*self.batch_shape, -1)).sample(Size(sample_shape))]
        noise = torch.randn(*shape, self.noise, dtype=total.dtype, device=total.device)
        return torch.cat([noise, total], -1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws (\*sample_shape, \*batch, features)."""
        return self.rsample(sample_shape)
