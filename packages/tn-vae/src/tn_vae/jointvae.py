r"""JointVAE: continuous and discrete latents side by side, each with a capacity that grows.

    L = -log p(x | z, c) + gamma | KL(q(z | x) || p(z)) - C_z | + gamma | KL(q(c | x) || p(c)) - C_c |

with C_z and C_c growing linearly, so that neither kind of latents is used up by the other.

References:
    Dupont, Learning Disentangled Joint Continuous and Discrete Representations, 2018, https://arxiv.org/abs/1804.00104,
    equation 7 and section 4
    Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017, https://arxiv.org/abs/1611.01144
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, RelaxedOneHotCategorical
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_vae.autoencoder import (
    Likelihood,
    Normals,
    check_at_least_one,
    check_not_negative,
    check_positive,
    divergence,
    normal,
)
from tn_vae.discrete import DiscreteVAE

__all__ = ["JointVAE"]


class JointVAE(DiscreteVAE):
    """Variational autoencoder with continuous and discrete latents. The categories are clusters.

    Arguments:
        network: a pair whose decoder takes z and c, features + categories, and whose encoder gives 2 * features +
            categories numbers: those of z, then the logits of c.
        prior: of z; p(c) is uniform.
        features: the continuous latents. (The paper, MNIST: 10.)
        categories: the values of c.
        temperature: of the relaxed categories.
        capacity: C_z at its largest, in nats.
        discrete_capacity: C_c at its largest, in nats; what is above log(categories) is cut off.
        capacity_steps: steps over which both grow from 0.
        pressure: gamma. (The paper: 30 on MNIST, 100 on Fashion-MNIST, with capacities 5 and 5, 5 and 10, over 25,000
            and 50,000 steps.)
        likelihood: "bernoulli" (cross entropy; grey values count as probabilities), "gaussian" (fixed deviation, means
            in (0, 1)) or "gaussian_real" (any means).
        deviation: the standard deviation of the Gaussian likelihoods.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "SmallConv", "network_size")],
        prior: Annotated[LazyDistribution, Component("priors", "StandardNormal")],
        features: int,
        categories: int = 10,
        temperature: float = 0.67,
        capacity: float = 5.0,
        discrete_capacity: float = 5.0,
        capacity_steps: int = 25_000,
        pressure: float = 30.0,
        likelihood: Likelihood = "bernoulli",
        deviation: float = 0.1,
        learning_rate: float = 5e-4,
        prior_learning_rate: float = 5e-4,
    ) -> None:
        super().__init__(
            network, prior, features, categories, likelihood, deviation, learning_rate, prior_learning_rate
        )
        check_at_least_one(capacity_steps=capacity_steps)
        check_positive(temperature=temperature)
        check_not_negative(capacity=capacity, discrete_capacity=discrete_capacity, pressure=pressure)
        self.temperature = temperature
        self.capacity, self.discrete_capacity = capacity, min(discrete_capacity, math.log(categories))
        self.capacity_steps, self.pressure = capacity_steps, pressure

    @staticmethod
    def network_size(features: int, categories: int, **_: Any) -> dict[str, int]:
        """What the network is to be made for."""
        return {"features": features + categories, "outputs": 2 * features + categories}

    # the model

    def posteriors(self, x: Tensor) -> tuple[Normals, Categorical]:
        """q(z | x) and q(c | x)."""
        outputs = self.network.encoder(x)
        if outputs.shape[-1] != 2 * self.features + self.categories:
            raise ValueError(
                f"the encoder must give 2 * {self.features} + {self.categories} numbers, it gives {outputs.shape[-1]}"
            )
        numbers, logits = outputs.split([2 * self.features, self.categories], -1)
        return normal(numbers), Categorical(logits=logits, validate_args=False)

    def posterior(self, x: Tensor) -> Normals:
        """q(z | x): independent normals, batch (batch,), event (features,)."""
        return self.posteriors(x)[0]

    def divergences(self, q_z: Normals, q_c: Categorical, z: Tensor) -> tuple[Tensor, Tensor]:
        """KL(q(z | x) || p(z)) and KL(q(c | x) || p(c)), (batch,) each, in nats."""
        return divergence(q_z, self.prior(), z), math.log(self.categories) - q_c.entropy()

    # bounds

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A one-sample estimate of the lower bound of log p(x), (batch,), in nats; labels are not looked at."""
        q_z, q_c = self.posteriors(x)
        z = q_z.rsample()
        of_z, of_c = self.divergences(q_z, q_c, z)
        return self.log_likelihood(x, self.code(z, q_c.sample())) - of_z - of_c

    def log_weights(self, x: Tensor, y: Tensor | None, samples: int) -> Tensor:
        """log p(x, z, c) / q(z, c | x) of posterior samples, (samples, batch)."""
        q_z, q_c = self.posteriors(x)
        z, c = q_z.rsample((samples,)), q_c.sample((samples,))
        log_p = self.prior().log_prob(z) - math.log(self.categories)
        log_p = log_p + self.log_likelihood(x, self.code(z, c))
        return log_p - q_z.log_prob(z) - q_c.log_prob(c)

    # training

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log. The bound that is logged is of relaxed categories."""
        q_z, q_c = self.posteriors(x)
        z = q_z.rsample()
        c = RelaxedOneHotCategorical(z.new_tensor(self.temperature), logits=q_c.logits).rsample()
        reconstruction = self.log_likelihood(x, torch.cat([z, c], -1)).mean()
        of_z, of_c = (found.mean() for found in self.divergences(q_z, q_c, z))
        grown = min(1.0, self.global_step / self.capacity_steps)
        away = (of_z - grown * self.capacity).abs() + (of_c - grown * self.discrete_capacity).abs()
        found = {
            "elbo": reconstruction - of_z - of_c,
            "reconstruction": reconstruction,
            "divergence": of_z,
            "divergence_categories": of_c,
        }
        return self.pressure * away - reconstruction, found

    # use

    def likeliest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of z, (batch, features), and the likeliest category, long (batch,)."""
        q_z, q_c = self.posteriors(x)
        return q_z.mean, q_c.probs.argmax(-1)
