r"""The correlated posterior over the parts of a whole: a normal whose sum can be known far better than any part.

Coordinate by coordinate, for the parts i = 1..K of one whole,

    w_i = mu_i + sigma_i (eps_i - rho_i sum_j eps_j),    eps ~ N(0, I),    rho_i >= 0,  sum_i rho_i < 1.

With equal deviations sigma the sum has variance K sigma^2 (1 - sum rho)^2, as small as one likes, while every part
keeps sigma_i^2 (1 - 2 rho_i + K rho_i^2). The covariance is S (I - rho 1') (I - 1 rho') S with S = diag(sigma), and
log det(I - rho 1') = log(1 - sum rho), which gives density, entropy and the divergence from independent normals in
closed form at O(K) a coordinate.

References:
    Berger and Sebag, Compositional Variational Auto-Encoder, 2020, section 3.3; the parametrisation is that of the
    authors' code.
"""

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

__all__ = ["PartsPosterior"]


class PartsPosterior(Distribution):
    r"""A normal distribution over the parts of wholes, parts of one whole correlated within each coordinate.

    Batch shape (\*batch,), event shape (parts, features). Wholes with fewer parts than there are places leave places
    absent: those hold no randomness, samples are 0 there, and they add nothing to any density or divergence.

    Arguments:
        mean: mu, (\*batch, parts, features).
        deviation: sigma, of the same shape, positive: the deviation a part would have without the correlation.
        logits: of rho, of the same shape: rho is their softmax over the present parts and one more logit fixed at 0,
            which takes 1 - sum rho.
        present: bool (\*batch, parts); None: all.

    Raises:
        ValueError: if shapes do not fit.
    """

    arg_constraints = {}  # noqa: RUF012  (torch declares it so; shapes are checked here)
    has_rsample = True

    def __init__(self, mean: Tensor, deviation: Tensor, logits: Tensor, present: Tensor | None = None) -> None:
        if mean.ndim < 2 or deviation.shape != mean.shape or logits.shape != mean.shape:
            raise ValueError(
                "mean, deviation and logits must have one shape (*batch, parts, features), got "
                f"{tuple(mean.shape)}, {tuple(deviation.shape)} and {tuple(logits.shape)}"
            )
        if present is None:
            present = torch.ones(mean.shape[:-1], dtype=torch.bool, device=mean.device)
        elif present.shape != mean.shape[:-1] or present.dtype != torch.bool:
            raise ValueError(
                f"present must be bool {tuple(mean.shape[:-1])}, got {present.dtype} {tuple(present.shape)}"
            )
        # shape: (*batch, parts, 1)
        self.present = present.unsqueeze(-1)
        self.loc = mean.where(self.present, 0)
        self.deviation = deviation.where(self.present, 1)
        logits = logits.masked_fill(~self.present, -math.inf)
        # shape: (*batch, 1, features)
        rest = logits.new_zeros((*logits.shape[:-2], 1, logits.shape[-1]))
        total = torch.logsumexp(torch.cat([logits, rest], -2), -2, keepdim=True)
        self.rho = torch.exp(logits - total)
        self.log_rest = -total.squeeze(-2)
        super().__init__(mean.shape[:-2], mean.shape[-2:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real matrices (zero in absent places)."""
        return constraints.independent(constraints.real, 2)

    @property
    def count(self) -> Tensor:
        r"""K, how many parts there are, (\*batch, 1), as a float."""
        return self.present.sum(-2).to(self.loc)

    @property
    def mean(self) -> Tensor:
        r"""(\*batch, parts, features)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        r"""The variance of each part by itself, (\*batch, parts, features)."""
        factor = 1 - 2 * self.rho + self.count.unsqueeze(-2) * self.rho**2
        return (factor * self.deviation**2).where(self.present, 0)

    @property
    def sum_variance(self) -> Tensor:
        r"""The variance of the sum of the parts, (\*batch, features)."""
        common = (self.deviation * self.rho).sum(-2, keepdim=True)
        return ((self.deviation - common).where(self.present, 0) ** 2).sum(-2)

    def __repr__(self) -> str:
        return f"PartsPosterior(batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"

    def transform(self, noise: Tensor) -> Tensor:
        r"""Turns standard normal noise eps (\*samples, \*batch, parts, features) into samples of the same shape."""
        eps = noise.where(self.present, 0)
        return self.loc + self.deviation * (eps - self.rho * eps.sum(-2, keepdim=True))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws samples (\*sample_shape, \*batch, parts, features) with gradients."""
        shape = (*sample_shape, *self.loc.shape)
        return self.transform(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "PartsPosterior":
        """Returns the same distribution with a larger batch shape."""
        new = PartsPosterior.__new__(PartsPosterior)
        batch = Size(batch_shape)
        for name in ("loc", "deviation", "rho", "present"):
            value: Tensor = getattr(self, name)
            setattr(new, name, value.expand(*batch, *value.shape[-2:]))
        new.log_rest = self.log_rest.expand(*batch, self.log_rest.shape[-1])
        Distribution.__init__(new, batch, self.event_shape, validate_args=False)
        return new

    def log_prob_of_noise(self, noise: Tensor) -> Tensor:
        r"""Returns the log density (\*samples, \*batch) at ``transform(noise)``, in nats; no need to solve for it."""
        log_p = -0.5 * noise**2 - 0.5 * math.log(2 * math.pi) - self.deviation.log()
        return log_p.where(self.present, 0).sum((-2, -1)) - self.log_rest.sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log density (\*samples, \*batch) of parts (\*samples, \*batch, parts, features), in nats.

        It is a density over the present parts; what the value holds in absent places is not looked at.
        """
        u = ((value - self.loc) / self.deviation).where(self.present, 0)
        # sum u = (1 - sum rho) sum eps
        total = u.sum(-2, keepdim=True) * torch.exp(-self.log_rest).unsqueeze(-2)
        return self.log_prob_of_noise(u + self.rho * total)

    def entropy(self) -> Tensor:
        r"""(\*batch,), in nats."""
        each = (0.5 * math.log(2 * math.pi * math.e) + self.deviation.log()).where(self.present, 0)
        return each.sum((-2, -1)) + self.log_rest.sum(-1)

    def divergence(self, mean: Tensor, deviation: Tensor) -> Tensor:
        r"""The Kullback-Leibler divergence from this distribution to independent normals, (\*batch,), in nats.

        For each coordinate half of

            sum_i (log sigma_p^2 - log sigma_q^2) - 2 log(1 - sum rho) + sum_i (mu_q - mu_p)^2 / sigma_p^2
            + sum_i (1 - 2 rho_i + K rho_i^2) sigma_q^2 / sigma_p^2 - K

        Arguments:
            mean: mu_p, (\*batch, parts, features).
            deviation: sigma_p, of the same shape, positive.
        """
        each = (
            deviation.log()
            - self.deviation.log()
            + 0.5 * (((self.loc - mean) / deviation) ** 2 + self.variance / deviation**2 - 1)
        )
        return each.where(self.present, 0).sum((-2, -1)) - self.log_rest.sum(-1)
