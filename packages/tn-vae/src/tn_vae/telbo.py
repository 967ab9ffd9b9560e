r"""VAE-TELBO: three bounds, of images and labels, of images, of labels, with a product of experts over the labels.

    elbo(x, y) = E_q(z|x,y) [log p(x | z) + log p(y_ob | z)] - KL(q(z | x, y) || p(z))
    elbo(x)    = E_q(z|x)    log p(x | z)                    - KL(q(z | x)    || p(z))
    elbo(y)    = E_q(z|y)    log p(y_ob | z)                 - KL(q(z | y)    || p(z))

where q(z | y_ob) is proportional to N(z; 0, I) times an expert q(z | y_j) for each label that is known.

References:
    Vedantam et al., Generative Models of Visually Grounded Imagination, 2018, https://arxiv.org/abs/1705.10762
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, sections 5 and E.1
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_vae.autoencoder import Likelihood, Normals, divergence
from tn_vae.joint import JointAutoencoder
from tn_vae.labels import mean_where_known

__all__ = ["TELBO"]


class TELBO(JointAutoencoder):
    """Variational autoencoder trained by the triple bound, with a product of experts.

    Arguments:
        network: a pair with an ``encoder`` of 4 * features numbers, the first half for q(z | x), the second for
            q(z | x, y), and a ``decoder``.
        prior: a module whose call returns a distribution over latents.
        features: the number of latents.
        labels: the number of values of each label.
        hidden: units of the layer between image, labels and q(z | x, y).
        label_weight: the weight of the labelled items' mean log p(y_ob | z), in addition to its part in the bounds.
        likelihood: "bernoulli" (cross entropy; grey values count as probabilities), "gaussian" (fixed deviation, means
            in (0, 1)) or "gaussian_real" (any means).
        deviation: the standard deviation of the Gaussian likelihoods.
        warmup_steps: steps over which the weight of the divergences from the prior grows from 0.1 to 1.
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
        labels: Sequence[int],
        hidden: int = 128,
        label_weight: float = 3.0,
        likelihood: Likelihood = "bernoulli",
        deviation: float = 0.1,
        warmup_steps: int = 500,
        learning_rate: float = 2e-3,
        prior_learning_rate: float = 1e-2,
    ) -> None:
        training = (likelihood, deviation, warmup_steps, learning_rate, prior_learning_rate)
        super().__init__(network, prior, features, labels, hidden, label_weight, *training)
        # an expert a value: its mean and its log precision
        self.expert_means = nn.Parameter(0.1 * torch.randn(self.labels.total, features))
        self.expert_log_precisions = nn.Parameter(torch.zeros(self.labels.total, features))

    def given_labels(self, y: Tensor) -> Normals:
        """q(z | y_ob): the product of N(0, I) and the experts of the known labels, batch (batch,)."""
        known = self.labels(y)
        precisions = self.expert_log_precisions.exp()
        precision = 1 + known @ precisions
        mean = known @ (precisions * self.expert_means) / precision
        return Independent(Normal(mean, precision.rsqrt(), validate_args=False), 1, validate_args=False)

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log."""
        y = self.noted(x, y)
        of_image, of_both = self.posteriors(x, y)
        of_labels, p = self.given_labels(y), self.prior()
        z_image, z_both, z_labels = of_image.rsample(), of_both.rsample(), of_labels.rsample()
        reconstruction = self.log_likelihood(x, torch.stack([z_both, z_image])).mean(1)
        label = self.label_decoder.log_prob(torch.stack([z_both, z_labels]), y)
        log_p_labels = torch.stack([mean_where_known(each, y >= 0) for each in label])
        label = label.mean(1)
        away = torch.stack(
            [divergence(q, p, z).mean() for q, z in ((of_both, z_both), (of_image, z_image), (of_labels, z_labels))]
        )
        bounds = reconstruction.sum() + label.sum() - self.warmth * away.sum()
        return -bounds - self.label_weight * log_p_labels.sum(), {
            "elbo": reconstruction[1] - away[1],
            "reconstruction": reconstruction[1],
            "divergence": away[1],
            "elbo_joint": reconstruction[0] + label[0] - away[0],
            "elbo_labels": label[1] - away[2],
            "log_p_labels": log_p_labels[0],
        }
