r"""The hierarchical autoencoder of two layers of latents, with any prior over the upper one.

    p(x, z1, z2) = p(x | z1, z2) p(z1 | z2) p(z2),     q(z1, z2 | x) = q(z1 | x, z2) q(z2 | x)

With a standard normal p(z2) it is HVAE, with a VampPrior HVP in the tables of the papers.

References:
    Tomczak and Welling, VAE with a VampPrior, 2018, section 3, https://arxiv.org/abs/1705.07120
    Lavda et al., Improving VAE generations of multimodal data (CP-VAE), 2020, table 1
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_vae.autoencoder import Likelihood, Normals, VariationalAutoencoder, check_at_least_one, divergence, normal
from tn_vae.networks import Gated

__all__ = ["HVAE"]


class HVAE(VariationalAutoencoder):
    """Hierarchical variational autoencoder: two layers of equally many latents.

    Arguments:
        network: a pair whose decoder takes both layers, 2 * features, and whose encoder gives 4 * features numbers: the
            first half for q(z2 | x), the second for q(z1 | x, z2).
        prior: of the upper layer, a module whose call returns a distribution.
        features: the latents of one layer.
        hidden: units of the two gated layers between the latents.
        likelihood: "bernoulli" (cross entropy; grey values count as probabilities), "gaussian" (fixed deviation, means
            in (0, 1)) or "gaussian_real" (any means).
        deviation: the standard deviation of the Gaussian likelihoods.
        warmup_steps: steps over which the weight of the divergence from the prior grows from 0.1 to 1. A third of
            a long training keeps the lower layer in use; unused, its scale is free, and large steps may ruin it.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range.
    """

    has_labels = False

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "GatedMLP", "network_size")],
        prior: Annotated[LazyDistribution, Component("priors", "StandardNormal")],
        features: int,
        hidden: int = 300,
        likelihood: Likelihood = "bernoulli",
        deviation: float = 0.1,
        warmup_steps: int = 500,
        learning_rate: float = 5e-4,
        prior_learning_rate: float = 5e-4,
    ) -> None:
        super().__init__(network, prior, likelihood, deviation, warmup_steps, learning_rate, prior_learning_rate)
        check_at_least_one(hidden=hidden)
        self.features = features
        both = 2 * features
        # q(z1 | x, z2): what the encoder says of x, and z2, then both together
        self.from_upper = Gated(features, hidden)
        self.from_data = Gated(both, hidden)
        self.to_lower = nn.Sequential(Gated(2 * hidden, hidden), nn.Linear(hidden, both))
        # p(z1 | z2)
        self.lower_prior = nn.Sequential(Gated(features, hidden), Gated(hidden, hidden), nn.Linear(hidden, both))

    @staticmethod
    def network_size(features: int, **_: Any) -> dict[str, int]:
        """What the network is to be made for."""
        return {"features": 2 * features, "outputs": 4 * features}

    def _upper(self, x: Tensor) -> tuple[Normals, Tensor]:
        """q(z2 | x), and what q(z1 | x, z2) is made from, (batch, 2 * features)."""
        outputs = self.network.encoder(x)
        if outputs.shape[-1] != 4 * self.features:
            raise ValueError(f"the encoder must give 4 * {self.features} numbers, it gives {outputs.shape[-1]}")
        upper, lower = outputs.chunk(2, -1)
        return normal(upper), lower

    def posterior(self, x: Tensor) -> Distribution:
        """q(z2 | x) of the upper layer: independent normals, batch (batch,), event (features,)."""
        return self._upper(x)[0]

    def _lower(self, lower: Tensor, z2: Tensor) -> Normals:
        """q(z1 | x, z2)."""
        data = self.from_data(lower).expand(*z2.shape[:-1], -1)
        return normal(self.to_lower(torch.cat([data, self.from_upper(z2)], -1)))

    def given_upper(self, z2: Tensor) -> Normals:
        """p(z1 | z2): independent normals."""
        return normal(self.lower_prior(z2))

    # bounds

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x | z1, z2) and the divergences of the two layers, (batch,) each."""
        q2, lower = self._upper(x)
        z2 = q2.rsample()
        q1 = self._lower(lower, z2)
        z1 = q1.rsample()
        reconstruction = self.log_likelihood(x, torch.cat([z1, z2], -1))
        return reconstruction, divergence(q1, self.given_upper(z2), z1), divergence(q2, self.prior(), z2)

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A one-sample estimate of the lower bound of log p(x), (batch,), in nats; labels are not looked at."""
        reconstruction, lower, upper = self._terms(x)
        return reconstruction - lower - upper

    def log_weights(self, x: Tensor, y: Tensor | None, samples: int) -> Tensor:
        """log p(x, z1, z2) / q(z1, z2 | x) of posterior samples, (samples, batch)."""
        q2, lower = self._upper(x)
        z2 = q2.rsample((samples,))
        q1 = self._lower(lower, z2)
        z1 = q1.rsample()
        log_p = self.log_likelihood(x, torch.cat([z1, z2], -1)) + self.given_upper(z2).log_prob(z1)
        return log_p + self.prior().log_prob(z2) - q1.log_prob(z1) - q2.log_prob(z2)

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log."""
        reconstruction, lower, upper = (term.mean() for term in self._terms(x))
        away = lower + upper
        found = {"elbo": reconstruction - away, "reconstruction": reconstruction, "divergence": away}
        return self.warmth * away - reconstruction, found | {"divergence_upper": upper, "divergence_lower": lower}

    # use

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The posterior's means, the lower layer's at the upper's mean, (batch, 2 * features)."""
        q2, lower = self._upper(x)
        return torch.cat([self._lower(lower, q2.mean).mean, q2.mean], -1)

    @torch.no_grad()
    def sample(self, count: int, y: None = None) -> Tensor:
        """Draws (count, *shape): z2 from the prior, z1 given z2, then the decoder's mean."""
        if y is not None:
            raise ValueError("HVAE has no labels to condition on")
        z2 = self.prior().sample((count,))
        return self.decode(torch.cat([self.given_upper(z2).sample(), z2], -1))
