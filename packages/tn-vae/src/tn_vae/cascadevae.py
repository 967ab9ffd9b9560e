r"""CascadeVAE: continuous latents let in one after the other, categories assigned instead of inferred by a network.

    L = -log p(x | z, c) + sum_j beta_j KL(q(z_j | x) || p(z_j))

with beta_j high for latents that are closed and low for those that are open, one more every so many steps, which keeps
the total correlation of the latents small. From some step on, the categories of a batch are those that

    max_c  sum_i log p(x_i | z_i, c_i) - lambda sum_k n_k (n_k - 1) / 2,        n_k = |{i: c_i = k}|,

a flow of minimum cost, and the networks follow: the two alternate. Before, the decoder is given no category.

References:
    Jeong and Song, Learning Discrete and Continuous Factors of Data via Alternating Disentanglement, 2019,
    https://arxiv.org/abs/1905.09432, sections 3.1 to 3.3
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_vae.autoencoder import Likelihood, check_at_least_one, check_not_negative
from tn_vae.discrete import DiscreteVAE

__all__ = ["CascadeVAE", "assignment"]


def assignment(scores: Tensor, penalty: float) -> Tensor:
    """The categories with the largest sum of scores, less a penalty for each pair of items that share one.

    Solved exactly: the m-th item of a category costs m - 1 penalties, so that each category is a row of places, one
    dearer than the other, and items are matched with places.

    Arguments:
        scores: (items, categories).
        penalty: not negative.

    Returns:
        Long (items,).
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    items, categories = scores.shape
    price = penalty * torch.arange(items, dtype=torch.float64).repeat(categories)
    # places are those of category 0, then those of category 1, ...
    gain = scores.detach().cpu().double().repeat_interleave(items, 1) - price
    place = torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])
    return (place // items).to(scores.device)


class CascadeVAE(DiscreteVAE):
    """Variational autoencoder with continuous and discrete latents, disentangled in turns. The categories are clusters.

    Bounds are those of the model itself, without weights: the posterior of the category given z is exact.

    Arguments:
        network: a pair whose decoder takes z and c, features + categories.
        prior: of z, independent normals; p(c) is uniform.
        features: the continuous latents.
        categories: the values of c.
        low_weight: beta of latents that are open.
        high_weight: beta of latents that are closed.
        open_every: steps after which one more latent is open; one is from the start. (The paper's code: 20,000.)
        open_before: how many latents are open when the categories begin to be used.
        penalty: lambda, in nats a pair. (The paper's code: 0.001.)
        likelihood: "bernoulli" (cross entropy; grey values count as probabilities), "gaussian" (fixed deviation, means
            in (0, 1)) or "gaussian_real" (any means).
        deviation: the standard deviation of the Gaussian likelihoods.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range, or the prior is another.
    """

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "SmallConv", "network_size")],
        prior: Annotated[LazyDistribution, Component("priors", "StandardNormal")],
        features: int,
        categories: int = 10,
        low_weight: float = 2.0,
        high_weight: float = 10.0,
        open_every: int = 1000,
        open_before: int = 5,
        penalty: float = 1e-3,
        likelihood: Likelihood = "bernoulli",
        deviation: float = 0.1,
        learning_rate: float = 5e-4,
        prior_learning_rate: float = 5e-4,
    ) -> None:
        super().__init__(
            network, prior, features, categories, likelihood, deviation, learning_rate, prior_learning_rate
        )
        check_at_least_one(open_every=open_every, open_before=open_before)
        check_not_negative(low_weight=low_weight, high_weight=high_weight, penalty=penalty)
        p = prior()
        if not (isinstance(p, Independent) and isinstance(p.base_dist, Normal)):
            raise ValueError(
                f"CascadeVAE weighs the divergence of each latent, and needs a prior of independent normals such as "
                f"StandardNormal, not {type(prior).__name__}"
            )
        self.low_weight, self.high_weight, self.penalty = low_weight, high_weight, penalty
        self.open_every, self.open_before = open_every, open_before

    @staticmethod
    def network_size(features: int, categories: int, **_: Any) -> dict[str, int]:
        """What the network is to be made for."""
        return {"features": features + categories, "outputs": 2 * features}

    # bounds

    def scores(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z, c) for every category, (*samples, batch, categories), in nats.

        Arguments:
            x: (batch, *shape).
            z: (*samples, batch, features).
        """
        every = (torch.full(z.shape[:-1], k, device=z.device) for k in range(self.categories))
        return torch.stack([self.log_likelihood(x, self.code(z, c)) for c in every], -1)

    def _log_likelihood_of_latents(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), the categories summed over."""
        return self.scores(x, z).logsumexp(-1) - math.log(self.categories)

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A one-sample estimate of the lower bound of log p(x), (batch,), in nats; labels are not looked at."""
        q = self.posterior(x)
        return self._log_likelihood_of_latents(x, q.rsample()) - kl_divergence(q, self.prior())

    def log_weights(self, x: Tensor, y: Tensor | None, samples: int) -> Tensor:
        """log p(x, z) / q(z | x) of posterior samples, (samples, batch)."""
        q = self.posterior(x)
        z = q.rsample((samples,))
        return self._log_likelihood_of_latents(x, z) + self.prior().log_prob(z) - q.log_prob(z)

    # training

    def weights(self, step: int) -> Tensor:
        """beta of each latent at this step, (features,)."""
        is_open = torch.arange(self.features, device=self.device) <= step // self.open_every
        return torch.where(is_open, self.low_weight, self.high_weight)

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log."""
        q: Any = self.posterior(x)
        z = q.rsample()
        if self.global_step < self.open_every * self.open_before:
            code = torch.cat([z, z.new_zeros(len(z), self.categories)], -1)
        else:
            with torch.no_grad():
                scores = self.scores(x, z)
            code = self.code(z, assignment(scores, self.penalty))
        reconstruction = self.log_likelihood(x, code).mean()
        divergences = kl_divergence(q.base_dist, self.prior().base_dist).mean(0)
        loss = (self.weights(self.global_step) * divergences).sum() - reconstruction
        return loss, {"loss": loss, "reconstruction": reconstruction, "divergence": divergences.sum()}

    # use

    def likeliest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of z, (batch, features), and the category that explains an item best given it, long (batch,)."""
        z = self.posterior(x).mean
        return z, self.scores(x, z).argmax(-1)
