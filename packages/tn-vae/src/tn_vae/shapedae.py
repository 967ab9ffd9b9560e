r"""A deterministic autoencoder whose latents are given the shape of a prior, by marginals and covariance.

    L = lambda_REC MSE(x, x') + lambda_KS L_KS(z) + lambda_CV L_CV(z)

    L_KS = 1/d sum_j MSE(F_j(z_j), Phi_j(z_j)),    L_CV = 1/d^2 sum_{l,j} (S_{l,j} - Sigma_{l,j})^2

with the latents' empirical marginal distribution functions F and covariance S over the batch, and the prior's, Phi and
Sigma: a loss like the Kolmogorov-Smirnov statistic, which says how one-dimensional distributions differ, and what it
cannot see of several dimensions. Any prior with both in closed form will do: a normal, a mixture of Gaussians, a tensor
ring.

The published weights make each term 1 for latents that come from the prior itself: lambda = 1 / E[L].

References:
    Saseendran et al., Shape your Space: A Gaussian Mixture Regularization Approach to Deterministic Autoencoders, 2021
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_priors.marginals import covariance, has_marginals, marginal_cdf
from tn_vae.autoencoder import check_not_negative
from tn_vae.deterministic import DeterministicAutoencoder

__all__ = ["ShapedAE", "covariance_loss", "expected_covariance_loss", "expected_ks_loss", "ks_loss"]


def ks_loss(z: Tensor, p: Distribution) -> Tensor:
    r"""L_KS: the squared difference between the latents' marginal distribution functions and a distribution's.

    Each latent is sorted over the batch, at the cost of n log n; the i-th smallest of n should lie at i / n. Gradients
    flow through the distribution's function, tied values share what falls to them.

    Arguments:
        z: latents (batch, d).
        p: over vectors of size d, see :func:`tn_priors.marginals.marginal_cdf`.

    Returns:
        A number, averaged over latents and batch.
    """
    ordered = z.sort(0).values
    share = torch.arange(1, len(z) + 1, device=z.device, dtype=z.dtype) / len(z)
    return (marginal_cdf(p, ordered) - share.unsqueeze(1)).square().mean()


def expected_ks_loss(batch: int) -> float:
    """E[L_KS] of so many latents that come from the distribution itself: (n + 1) / (6 n^2), whatever that is."""
    return (batch + 1) / (6 * batch**2)


def covariance_loss(z: Tensor, sigma: Tensor) -> Tensor:
    r"""L_CV: the squared difference between the latents' covariance, (d, d), and a given one.

    Arguments:
        z: latents (batch, d), at least two.
        sigma: (d, d).

    Returns:
        A number, averaged over pairs of latents.
    """
    away = z - z.mean(0)
    return (away.mT @ away / (len(z) - 1) - sigma).square().mean()


@torch.no_grad()
def expected_covariance_loss(p: Distribution, batch: int, draws: int = 100) -> float:
    """E[L_CV] of so many latents that come from the distribution itself, over so many draws of them."""
    sigma = covariance(p)
    return float(torch.stack([covariance_loss(p.sample((batch,)), sigma) for _ in range(draws)]).mean())


class ShapedAE(DeterministicAutoencoder):
    """Deterministic autoencoder with the Kolmogorov-Smirnov-like and the covariance loss (GMM-AE).

    A prior with parameters that learn also follows the latents: minus its mean log density of them is added, of which
    the networks feel nothing.

    Arguments:
        network: a pair with an ``encoder`` of as many outputs as there are latents, and a ``decoder``.
        prior: a module whose call returns a distribution with marginal distribution functions and a covariance.
        reconstruction_weight: of the squared error a value; None: 1 over its running mean, so that the term is about 1
            as the others are for latents that come from the prior. (The paper's code: 2,000.)
        ks_weight: of L_KS, in multiples of the published weight.
        covariance_weight: of L_CV, in multiples of the published weight.
        fit_prior: whether the prior is fitted to the latents of the training data after the last epoch.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range, or the prior does not have what is needed.
    """

    running_error: Tensor
    covariance_scale: Tensor

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "SmallConv", "network_size")],
        prior: Annotated[LazyDistribution, Component("priors", "GaussianMixture")],
        reconstruction_weight: float | None = None,
        ks_weight: float = 1.0,
        covariance_weight: float = 1.0,
        fit_prior: bool = False,
        learning_rate: float = 1e-3,
        prior_learning_rate: float = 1e-2,
    ) -> None:
        super().__init__(network, prior, fit_prior, learning_rate, prior_learning_rate)
        check_not_negative(ks_weight=ks_weight, covariance_weight=covariance_weight)
        if reconstruction_weight is not None and not reconstruction_weight > 0:
            raise ValueError(f"reconstruction_weight must be positive, got {reconstruction_weight}")
        if not has_marginals(prior()):
            raise ValueError(
                f"ShapedAE needs a prior with marginal distribution functions and a covariance in closed form, such as "
                f"StandardNormal, GaussianMixture and TRIP; {type(prior).__name__} has none"
            )
        self.reconstruction_weight = reconstruction_weight
        self.ks_weight, self.covariance_weight = ks_weight, covariance_weight
        # NaN: not known yet; the second is E[L_CV] times the number of latents
        self.register_buffer("running_error", torch.tensor(math.nan))
        self.register_buffer("covariance_scale", torch.tensor(math.nan))

    def loss(self, x: Tensor, z: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The weighted sum of the three terms, and minus the mean log density of the latents if the prior learns."""
        p = self.prior()
        error, ks = self.squared_error(x, z), ks_loss(z, p)
        of_covariance = covariance_loss(z, covariance(p))
        loss = (
            self._weigh_error(error) * error
            + self.ks_weight / expected_ks_loss(len(z)) * ks
            + self.covariance_weight * len(z) / self._expected(p, len(z)) * of_covariance
        )
        found = {"squared_error": error, "ks": ks, "covariance": of_covariance}
        if self.trains_prior and any(parameter.requires_grad for parameter in self.prior.parameters()):
            found["log_p_latents"] = p.log_prob(z.detach()).mean()
            loss = loss - found["log_p_latents"]
        return loss, {"loss": loss, **found}

    def _weigh_error(self, error: Tensor) -> Tensor | float:
        if self.reconstruction_weight is not None:
            return self.reconstruction_weight
        if self.training:
            before = torch.where(self.running_error.isnan(), error.detach(), self.running_error)
            self.running_error.copy_(0.95 * before + 0.05 * error.detach())
        return 1 / self.running_error

    def _expected(self, p: Distribution, batch: int) -> Tensor:
        """E[L_CV] times the number of latents, estimated once an epoch."""
        if self.covariance_scale.isnan():
            self.covariance_scale.fill_(batch * expected_covariance_loss(p, batch))
        return self.covariance_scale

    def on_train_epoch_start(self) -> None:
        """Has the weight of the covariance loss estimated again if the prior learns."""
        if self.trains_prior:
            self.covariance_scale.fill_(math.nan)

    # clusters

    @property
    def clusters(self) -> int:
        """How many components the prior has; there is no such attribute if it is no mixture."""
        try:
            return int(self._mixture().mixture_distribution.logits.shape[-1])
        except ValueError as error:
            raise AttributeError(str(error)) from None

    def _mixture(self) -> Any:
        p = self.prior()
        if not hasattr(p, "mixture_distribution"):
            raise ValueError(f"{type(self.prior).__name__} has no components to cluster by; a mixture of Gaussians has")
        return p

    @torch.no_grad()
    def assign(self, x: Tensor) -> Tensor:
        """The likeliest component of the prior, long (batch,).

        Raises:
            ValueError: if the prior is no mixture.
        """
        found: Tensor = self._mixture().component_posterior(self.encode(x)).argmax(-1)
        return found

    @torch.no_grad()
    def sample(self, count: int, y: None = None, cluster: int | None = None) -> Tensor:
        """Draws (count, *shape): decoded latents from the prior.

        Arguments:
            count: how many.
            y: None; there are no labels.
            cluster: draw all from this component of the prior.

        Raises:
            ValueError: if y is given, or a cluster of a prior that is no mixture.
        """
        if cluster is None:
            return super().sample(count, y)
        return self.decode(self._mixture().component_distribution.sample((count,))[:, cluster])
