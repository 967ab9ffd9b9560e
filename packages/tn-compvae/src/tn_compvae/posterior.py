r"""The correlated posterior over the parts of a whole: a normal whose sum can be known far better than any part.

Coordinate by coordinate, for the parts i = 1..K of one whole,

    w_i = mu_i + sigma_i eps_i - rho_i sum_j sigma_j eps_j,    eps ~ N(0, I),    rho_i >= 0,  sum_i rho_i < 1.

The sum has variance (1 - sum rho)^2 sum_j sigma_j^2, as small as one likes, while part i by itself keeps
(1 - 2 rho_i) sigma_i^2 + rho_i^2 sum_j sigma_j^2. The covariance is (I - rho 1') S^2 (I - 1 rho') with S = diag(sigma),
and log det(I - rho 1') = log(1 - sum rho), which gives density, entropy and the divergence from independent normals in
closed form at O(K) a coordinate. Independent normals that are told their sum are in the family, with rho_i in
proportion to sigma_i^2, and rho is given relative to that.

The authors' code has S (I - rho 1') (I - 1 rho') S, which is the same where the deviations of all parts are equal.
Where they are not, as in a coordinate that one category uses and others do not, the noise of those others would go into
the sum, which could not be made certain.

References:
    Berger and Sebag, Compositional Variational Auto-Encoder, 2020, section 3.3
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
        logits: of rho, of the same shape: rho_i is in proportion to sigma_i^2 exp(logit_i), and 1 - sum rho to the mean
            of sigma^2. With equal deviations rho is the softmax of the logits and one more that is 0.
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
        # shapes: (*batch, 1, features); a set without parts has no deviation to compare with
        mean_square = self._squares.sum(-2, keepdim=True) / self.count.clamp_min(1).unsqueeze(-2)
        scale = mean_square.where(self.count.unsqueeze(-2) > 0, 1).log()
        logits = (logits + 2 * self.deviation.log() - scale).masked_fill(~self.present, -math.inf)
        total = torch.logsumexp(torch.cat([logits, torch.zeros_like(scale)], -2), -2, keepdim=True)
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
    def _squares(self) -> Tensor:
        r"""sigma^2, 0 in absent places, (\*batch, parts, features)."""
        return (self.deviation**2).where(self.present, 0)

    @property
    def mean(self) -> Tensor:
        r"""(\*batch, parts, features)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        r"""The variance of each part by itself, (\*batch, parts, features)."""
        squares = self._squares
        return (1 - 2 * self.rho) * squares + self.rho**2 * squares.sum(-2, keepdim=True)

    @property
    def sum_variance(self) -> Tensor:
        r"""The variance of the sum of the parts, (\*batch, features)."""
        return torch.exp(2 * self.log_rest) * self._squares.sum(-2)

    def __repr__(self) -> str:
        return f"PartsPosterior(batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"

    def transform(self, noise: Tensor) -> Tensor:
        r"""Turns standard normal noise eps (\*samples, \*batch, parts, features) into samples of the same shape."""
        scaled = (self.deviation * noise).where(self.present, 0)
        return self.loc + scaled - self.rho * scaled.sum(-2, keepdim=True)

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
        away = (value - self.loc).where(self.present, 0)
        # the sum of what is away from the mean is (1 - sum rho) sum_j sigma_j eps_j
        total = away.sum(-2, keepdim=True) * torch.exp(-self.log_rest).unsqueeze(-2)
        return self.log_prob_of_noise((away + self.rho * total) / self.deviation)

    def entropy(self) -> Tensor:
        r"""(\*batch,), in nats."""
        each = (0.5 * math.log(2 * math.pi * math.e) + self.deviation.log()).where(self.present, 0)
        return each.sum((-2, -1)) + self.log_rest.sum(-1)

    def divergence(self, mean: Tensor, deviation: Tensor) -> Tensor:
        r"""The Kullback-Leibler divergence from this distribution to independent normals, (\*batch,), in nats.

        For each coordinate half of

            sum_i (log sigma_p^2 - log sigma_q^2) - 2 log(1 - sum rho) + sum_i (mu_q - mu_p)^2 / sigma_p^2
            + sum_i ((1 - 2 rho_i) sigma_q^2 + rho_i^2 sum_j sigma_j^2) / sigma_p^2 - K

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
