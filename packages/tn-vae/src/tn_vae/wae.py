r"""The Wasserstein autoencoder with the maximum mean discrepancy.

    L = |x - D(z)|^2 + lambda MMD^2(z, z'),    z = E(x),  z' ~ p

with the inverse multiquadratic kernel k(z, z') = sum_s s C / (s C + |z - z'|^2), where C = 2 d sigma^2 is the expected
squared distance of two draws from the prior.

References:
    Tolstikhin et al., Wasserstein Auto-Encoders, 2018, https://arxiv.org/abs/1711.01558, algorithm 2 and section 4
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_vae.autoencoder import check_not_negative
from tn_vae.deterministic import DeterministicAutoencoder

__all__ = ["WAE", "multiquadratic_discrepancy"]

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def multiquadratic_discrepancy(z: Tensor, other: Tensor, distance: Tensor) -> Tensor:
    r"""An unbiased estimate of the squared maximum mean discrepancy of two samples, which may be below zero.

    Arguments:
        z: (n, d), n at least 2.
        other: (n, d).
        distance: C, a number.
    """
    n = len(z)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)
        found: Tensor = sum((s * distance / (s * distance + squared) for s in SCALES), torch.zeros_like(squared))
        return found

    # of a point with itself the kernel is 1 at each scale
    within = sum(kernel(a, a).sum() - n * len(SCALES) for a in (z, other)) / (n * (n - 1))
    return within - 2 * kernel(z, other).mean()


class WAE(DeterministicAutoencoder):
    """Wasserstein autoencoder, WAE-MMD.

    Arguments:
        network: a pair with an ``encoder`` of as many outputs as there are latents, and a ``decoder``.
        prior: a module whose call returns a distribution over latents; it does not learn from this loss.
        discrepancy_weight: lambda, against the squared error of an item, not of a value. (The paper, MNIST: 10.)
        fit_prior: whether the prior is fitted to the latents of the training data after the last epoch.
        learning_rate: of the networks (Adam).

    Raises:
        ValueError: if a number is out of its range, or the prior cannot be fitted.
    """

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "SmallConv", "network_size")],
        prior: Annotated[LazyDistribution, Component("priors", "StandardNormal")],
        discrepancy_weight: float = 10.0,
        fit_prior: bool = False,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(network, prior, fit_prior, learning_rate, 0.0)
        check_not_negative(discrepancy_weight=discrepancy_weight)
        self.discrepancy_weight = discrepancy_weight

    def loss(self, x: Tensor, z: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The squared error of an item and the weighted discrepancy."""
        with torch.no_grad():
            p = self.prior()
            other, distance = p.sample((len(z),)), 2 * p.variance.sum()
        error, away = self.squared_error(x, z), multiquadratic_discrepancy(z, other, distance)
        loss = error * x[0].numel() + self.discrepancy_weight * away
        return loss, {"loss": loss, "squared_error": error, "discrepancy": away}
