r"""JMVAE: a joint bound of images and labels, with encoders of either alone that are drawn to the joint one.

    E_q(z|x,y) [log p(x | z) + log p(y_ob | z)] - KL(q(z | x, y) || p(z))
        - alpha [ KL(q(z | x, y) || q(z | x)) + KL(q(z | x, y) || q(z | y)) ]

Missing labels are left out of p(y | z) and are all zero to the encoders.

References:
    Suzuki et al., Joint Multimodal Learning with Deep Generative Models, 2016, equation 3, https://arxiv.org/abs/1611.01891
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, sections 5 and E.1
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

from torch import Tensor, nn
from torch.distributions import kl_divergence
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_vae.autoencoder import Likelihood, Normals, check_not_negative, divergence, normal
from tn_vae.joint import JointAutoencoder
from tn_vae.labels import mean_where_known, perceptron

__all__ = ["JMVAE"]


class JMVAE(JointAutoencoder):
    """Joint multimodal variational autoencoder.

    Arguments:
        network: a pair with an ``encoder`` of 4 * features numbers, the first half for q(z | x), the second for
            q(z | x, y), and a ``decoder``.
        prior: a module whose call returns a distribution over latents.
        features: the number of latents.
        labels: the number of values of each label.
        hidden: units of the layers between labels and latents.
        alpha: the weight of the divergences between the encoders.
        label_weight: the weight of the labelled items' mean log p(y_ob | z), in addition to its part in the bound.
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
        features: int,
        labels: Sequence[int],
        hidden: int = 128,
        alpha: float = 0.1,
        label_weight: float = 3.0,
        likelihood: Likelihood = "bernoulli",
        deviation: float = 0.1,
        warmup_steps: int = 500,
        learning_rate: float = 2e-3,
        prior_learning_rate: float = 1e-2,
    ) -> None:
        training = (likelihood, deviation, warmup_steps, learning_rate, prior_learning_rate)
        super().__init__(network, prior, features, labels, hidden, label_weight, *training)
        check_not_negative(alpha=alpha)
        self.alpha = alpha
        self.from_labels = perceptron(self.labels.total, hidden, 2 * features)

    def given_labels(self, y: Tensor) -> Normals:
        """q(z | y_ob), batch (batch,)."""
        return normal(self.from_labels(self.labels(y)))

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log."""
        y = self.noted(x, y)
        of_image, of_both = self.posteriors(x, y)
        z = of_both.rsample()
        reconstruction = self.log_likelihood(x, z).mean()
        label = self.label_decoder.log_prob(z, y)
        away = divergence(of_both, self.prior(), z).mean()
        apart = (kl_divergence(of_both, of_image) + kl_divergence(of_both, self.given_labels(y))).mean()
        bound = reconstruction + label.mean() - self.warmth * away
        log_p_labels = mean_where_known(label, y >= 0)
        return self.alpha * apart - bound - self.label_weight * log_p_labels, {
            "elbo_joint": reconstruction + label.mean() - away,
            "reconstruction": reconstruction,
            "divergence": away,
            "divergence_encoders": apart,
            "log_p_labels": log_p_labels,
        }
