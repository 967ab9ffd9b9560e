r"""The distribution that a tensor chain induces on its latents: a mixture of exponentially many Gaussians.

    p(z | y) = sum_s p(s | y) prod_k N(z_k; mu_{k, s_k}, sigma_{k, s_k}^2),    p(s, y) proportional to W[s, y].

References:
    Kuznetsov et al., A Prior of a Googol Gaussians, 2019: equations 3, 5 and 11, algorithm 1.
    Kuznetsov et al., Subset-Conditioned Generation, 2018: equations 4 and 7.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from tn_core.chain import log_partition, log_probability, marginals
from tn_core.cores import Boundary, Grouped, index_on, without_autocast
from tn_core.evidence import Given
from tn_core.sampling import sample
from tn_priors.labels import can_look_at
from tn_priors.pathwise import pathwise

__all__ = ["ChainMixture", "check_values", "normal_log_density"]


def normal_log_density(value: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
    """log N(value; mean, deviation^2), elementwise in nats."""
    # what does not depend on the value is done once, not for the whole batch
    x = (value - means) * deviations.reciprocal()
    return torch.addcmul(-deviations.log() - 0.5 * math.log(2 * math.pi), x, x, value=-0.5)


def check_values(value: Tensor, features: int, finite: bool = True) -> None:
    """Raises a ValueError unless values have the shape (..., features), and, on the CPU, are finite if they must be."""
    if value.ndim < 1 or value.shape[-1] != features:
        raise ValueError(f"expected values of shape (..., {features}), got {tuple(value.shape)}")
    if finite and can_look_at(value) and not bool(torch.isfinite(value).all()):
        raise ValueError("values must be finite, got NaN or infinity")


class ChainMixture(Distribution):
    r"""A distribution over d of the variables of a chain, each a Gaussian given its component.

    Exact: log density, marginals, conditionals, samples, moments and the posterior of the components.

    Arguments:
        cores: the chain.
        boundary: "ring" or "train".
        positions: for each dimension of the event its position on the chain.
        means: (d, N) means of the components.
        deviations: (d, N) standard deviations, positive.
        evidence: log weights (\*batch, N_k) by position, of variables outside the event; variables in neither are
            summed out.
        batch_shape: the batch shape; None: that of the evidence.
        validate_args: whether to check values given to ``log_prob``, where they lie on the CPU.
    """

    has_rsample = True
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        cores: Grouped,
        boundary: Boundary,
        positions: Sequence[int],
        means: Tensor,
        deviations: Tensor,
        evidence: dict[int, Tensor] | None = None,
        batch_shape: Size | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.cores, self.boundary = cores, boundary
        self.positions = tuple(positions)
        self.means, self.deviations = means, deviations
        self.evidence = evidence or {}
        if batch_shape is None:
            batch_shape = torch.broadcast_shapes(*(e.shape[:-1] for e in self.evidence.values()))
        self._normalizer: Tensor | None = None
        super().__init__(Size(batch_shape), Size([len(self.positions)]), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """All real vectors."""
        return constraints.real_vector

    def __repr__(self) -> str:
        return (
            f"ChainMixture(boundary={self.boundary!r}, components={self.means.shape[1]}, rank={max(self.cores.bonds)}, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )

    def _replace(self, **changes: Any) -> "ChainMixture":
        arguments = {
            "cores": self.cores,
            "boundary": self.boundary,
            "positions": self.positions,
            "means": self.means,
            "deviations": self.deviations,
            "evidence": self.evidence,
            "validate_args": self._validate_args,
        } | changes
        return ChainMixture(**arguments)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "ChainMixture":
        """Returns the same distribution with a larger batch shape."""
        return self._replace(batch_shape=Size(batch_shape))

    def log_normalizer(self) -> Tensor:
        """log Z of the evidence outside the event, (*batch,) or (); the density's denominator."""
        if self._normalizer is None:
            self._normalizer = log_partition(self.cores, self.evidence or None, boundary=self.boundary)
        return self._normalizer

    def _densities(self, value: Tensor) -> Tensor:
        """The log densities of a value's components, (*batch, d, N)."""
        check_values(value, self.event_shape[0], self._validate_args)
        return normal_log_density(value.unsqueeze(-1), self.means, self.deviations)

    def with_values(self, value: Tensor) -> Given:
        """The evidence together with that of values of the whole event."""
        every: dict[int | tuple[int, ...], Tensor] = dict(self.evidence.items())
        return every | {self.positions: self._densities(value)}

    def log_joint(self, value: Tensor) -> Tensor:
        """log Z of the evidence and the value: the density's numerator."""
        return log_partition(self.cores, self.with_values(value), boundary=self.boundary)

    def log_prob_with_evidence(self, value: Tensor) -> Tensor:
        r"""Returns log p(value, evidence), (\*batch,), of values (\*batch, d), in nats."""
        return log_probability(self.cores, self.with_values(value), boundary=self.boundary)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the exact log density (\*batch,) of values (\*batch, d), in nats."""
        if self._normalizer is None and not self.evidence:
            log_p = self.log_prob_with_evidence(value)
        else:
            log_p = self.log_joint(value) - self.log_normalizer()
        return log_p.expand(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))

    def _spread_evidence(self) -> dict[int, Tensor]:
        """The evidence with the whole batch shape."""
        return {k: e.expand(*self.batch_shape, e.shape[-1]) for k, e in self.evidence.items()}

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws exact samples (\*sample_shape, \*batch, d)."""
        return self._draw(sample_shape)

    def _draw(self, sample_shape: Sequence[int]) -> Tensor:
        """Samples with gradients to means and deviations: those of the component that each was drawn from."""
        evidence = self._spread_evidence()
        # without evidence the batch is just more samples
        axes = Size(sample_shape) if evidence else Size(sample_shape) + self.batch_shape
        states = sample(self.cores, evidence or None, axes, boundary=self.boundary)
        states = states.index_select(-1, index_on(self.positions, states.device))
        component = states.reshape(-1, len(self.positions)).T  # shape: (d, samples)
        means, deviations = self.means.gather(1, component), self.deviations.gather(1, component)
        return (means + deviations * torch.randn_like(means)).T.reshape(states.shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws samples (\*sample_shape, \*batch, d) with pathwise gradients to means, deviations, cores, evidence.

        By implicit differentiation of the conditional distribution functions along the chain; see
        :func:`tn_priors.pathwise.pathwise`.
        """
        value = self.sample(sample_shape)
        evidence = self._spread_evidence()
        with without_autocast(value):
            return pathwise(value, self.cores, self.boundary, self.positions, self.means, self.deviations, evidence)

    def rsample_with_score(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        r"""Draws samples that keep their components, and the log density that the choice of components is scored by.

        The expectation of a function f has the gradient of

            f(z) + log_p (f(z) - b),    where the bracket is a constant to autograd,

        with any b that does not depend on z: pathwise to means and deviations, by the score function to the rest. Where
        the Gaussians lie apart that is much less noisy than :meth:`rsample`, whose paths lead from one to another
        through where there is hardly any density.

        Returns:
            z (\*sample_shape, \*batch, d), with gradients to means and deviations, and log_p (\*sample_shape, \*batch),
            in nats, with gradients to cores and evidence.

        References:
            Schulman et al., Gradient Estimation Using Stochastic Computation Graphs, 2015,
            https://arxiv.org/abs/1506.05254
        """
        z = self._draw(sample_shape)
        scored = self._replace(
            means=self.means.detach(), deviations=self.deviations.detach(), batch_shape=self.batch_shape
        )
        return z, scored.log_prob(z.detach())

    def component_probabilities(self) -> Tensor:
        r"""Returns p(s_k | evidence), (\*batch, d, N)."""
        evidence = self._spread_evidence() or None
        found = marginals(self.cores, evidence, boundary=self.boundary, variables=self.positions)
        found = found[..., : self.means.shape[1]]
        return found.expand(*self.batch_shape, *found.shape[-2:])

    def component_posterior(self, value: Tensor) -> Tensor:
        r"""Returns p(s_k | z, evidence), (\*batch, d, N), for values z (\*batch, d)."""
        value = value.expand(*torch.broadcast_shapes(value.shape[:-1], self.batch_shape), *value.shape[-1:])
        evidence = self.with_values(value)
        found = marginals(self.cores, evidence, boundary=self.boundary, variables=self.positions)
        return found[..., : self.means.shape[1]]

    @property
    def mean(self) -> Tensor:
        r"""Exact mean, (\*batch, d)."""
        return (self.component_probabilities() * self.means).sum(-1)

    @property
    def variance(self) -> Tensor:
        r"""Exact variance of each dimension, (\*batch, d)."""
        p = self.component_probabilities()
        mean = (p * self.means).sum(-1, keepdim=True)
        return (p * (self.deviations**2 + (self.means - mean) ** 2)).sum(-1)

    @property
    def covariance(self) -> Tensor:
        r"""Exact covariance, (\*batch, d, d).

        The components' covariance comes from d posteriors, of which the j-th has the means of dimension j, raised above
        zero, as one more weight: it is that of mu_j p(s) up to a constant.
        """
        p = self.component_probabilities()
        mean = (p * self.means).sum(-1)
        d, lowest = len(self.positions), self.means.amin(1, keepdim=True)
        raised = (self.means - lowest) + (self.means.amax(1, keepdim=True) - lowest).clamp_min(1)
        evidence = {k: e.expand(d, *self.batch_shape, e.shape[-1]) for k, e in self.evidence.items()}
        each = torch.arange(d, device=raised.device).reshape(d, *[1] * len(self.batch_shape), 1)
        for j, position in enumerate(self.positions):
            weight = raised[j].log().where(each == j, 0).expand(d, *self.batch_shape, -1)
            evidence[position] = evidence[position] + weight if position in evidence else weight
        given_each = marginals(self.cores, evidence, boundary=self.boundary, variables=self.positions)
        given_each = given_each[..., : self.means.shape[1]].movedim(0, -3)  # shape: (*batch, d, d, N)
        shifted = (given_each * self.means).sum(-1) - mean.unsqueeze(-2)
        found = (p * raised).sum(-1).unsqueeze(-1) * shifted
        found = (found + found.mT) / 2  # the same but for rounding
        return found.diagonal_scatter(self.variance, dim1=-2, dim2=-1)

    def marginal_cdf(self, value: Tensor) -> Tensor:
        r"""P(z_k <= value_k) for each dimension by itself, (\*batch, d), for values (\*batch, d)."""
        check_values(value, self.event_shape[0], self._validate_args)
        below = torch.special.ndtr((value.unsqueeze(-1) - self.means) / self.deviations)
        return (self.component_probabilities() * below).sum(-1)

    def marginal(self, dims: Sequence[int]) -> "ChainMixture":
        """Returns the distribution of some dimensions, the others integrated out.

        Raises:
            ValueError: if a dimension does not exist or is named twice, or none is named.
        """
        dims = list(dims)
        d = self.event_shape[0]
        if not dims or len(set(dims)) != len(dims) or not all(0 <= k < d for k in dims):
            raise ValueError(f"dims must be different numbers from 0 to {d - 1}, at least one; got {dims}")
        return self._replace(
            positions=[self.positions[k] for k in dims],
            means=self.means[dims],
            deviations=self.deviations[dims],
            batch_shape=self.batch_shape,
        )

    def condition(self, values: Tensor, mask: Tensor) -> "ChainMixture":
        r"""Returns the distribution of the other dimensions given some.

        Arguments:
            values: (\*batch, d); entries where the mask is False are not looked at.
            mask: bool (d,), True where the dimension is given.

        Raises:
            ValueError: if a shape does not fit, or nothing would be left.
        """
        d = self.event_shape[0]
        if mask.shape != (d,) or mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool of shape ({d},), got {mask.dtype} {tuple(mask.shape)}")
        if bool(mask.all()):
            raise ValueError("every dimension is given: nothing is left to be a distribution of")
        given = [k for k, known in enumerate(mask.tolist()) if known]
        left = [k for k in range(d) if k not in set(given)]
        check_values(torch.where(mask, values, 0), d, self._validate_args)
        evidence = dict(self.evidence)
        for k in given:
            evidence[self.positions[k]] = normal_log_density(
                values[..., k].unsqueeze(-1), self.means[k], self.deviations[k]
            )
        return self._replace(
            positions=[self.positions[k] for k in left],
            means=self.means[left],
            deviations=self.deviations[left],
            evidence=evidence,
            batch_shape=torch.broadcast_shapes(values.shape[:-1], self.batch_shape),
        )
