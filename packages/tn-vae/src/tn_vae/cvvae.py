r"""The variational autoencoder with a posterior of constant variance: q(z | x) = N(E(x), sigma^2).

References:
    Ghosh et al., From Variational to Deterministic Autoencoders, 2020, section 2.2 (which does not say the variance)
"""

from typing import Annotated, Any

from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_vae.autoencoder import Likelihood, check_positive
from tn_vae.vae import VAE

__all__ = ["CVVAE"]


class CVVAE(VAE):
    """Variational autoencoder with a posterior of constant variance.

    Arguments:
        network: a pair with an ``encoder`` of as many outputs as there are latents, and a ``decoder``.
        prior: a module whose call returns a distribution over latents.
        posterior_deviation: sigma.
        likelihood: "bernoulli" (cross entropy; grey values count as probabilities), "gaussian" (fixed deviation, means
            in (0, 1)) or "gaussian_real" (any means).
        deviation: the standard deviation of the Gaussian likelihoods.
        warmup_steps: steps over which the weight of the divergence from the prior grows from 0.1 to 1.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "SmallConv", "network_size")],
        prior: Annotated[LazyDistribution, Component("priors", "StandardNormal")],
        posterior_deviation: float = 0.1,
        likelihood: Likelihood = "bernoulli",
        deviation: float = 0.1,
        warmup_steps: int = 500,
        learning_rate: float = 2e-3,
        prior_learning_rate: float = 1e-2,
    ) -> None:
        super().__init__(
            network,
            prior,
            likelihood,
            deviation,
            warmup_steps=warmup_steps,
            learning_rate=learning_rate,
            prior_learning_rate=prior_learning_rate,
        )
        check_positive(posterior_deviation=posterior_deviation)
        self.posterior_deviation = posterior_deviation

    @staticmethod
    def network_size(features: int, **_: Any) -> dict[str, Any]:
        """What the network is to be made for."""
        return {"outputs": features}

    def posterior(self, x: Tensor) -> Distribution:
        """q(z | x): independent normals, batch (batch,), event (features,)."""
        mean = self.network.encoder(x)
        latents = getattr(self.prior, "features", mean.shape[-1])
        if mean.shape[-1] != latents:
            raise ValueError(f"the encoder gives {mean.shape[-1]} latents, but the prior has {latents}")
        deviation = mean.new_full((), self.posterior_deviation).expand_as(mean)
        return Independent(Normal(mean, deviation, validate_args=False), 1, validate_args=False)
