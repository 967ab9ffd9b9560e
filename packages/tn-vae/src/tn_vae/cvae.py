r"""The conditional VAE, whose missing labels are imputed by a classifier: the baseline of TRIP and VAE-TTLP.

    log p(x | y) >= E_q(z|x) log p(x | z, y) - KL(q(z | x) || p(z | y))

It needs every label. Those that training data lack are what a classifier, trained beside it on those that are there,
holds for likeliest; those left open in sampling are drawn as often as they were seen.

References:
    Sohn et al., Learning Structured Output Representation using Deep Conditional Generative Models, 2015
    Kingma et al., Semi-supervised Learning with Deep Generative Models, 2014, https://arxiv.org/abs/1406.5298
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, appendices C and E.1
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.nn import functional
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_vae.autoencoder import Likelihood, VariationalAutoencoder, check_at_least_one, estimated_divergence, normal
from tn_vae.labels import Labels, number_of_values, perceptron

__all__ = ["CVAE"]


class CVAE(VariationalAutoencoder):
    """Conditional variational autoencoder.

    Arguments:
        network: a pair with an ``encoder`` of 2 * features numbers, and a ``decoder`` that takes z and the labels,
            features + the number of all labels' values.
        classifier: a pair whose ``encoder`` gives as many numbers as all labels have values.
        prior: over e, where z = mean(y) + deviation(y) * e; with a standard normal, p(z | y) is normal.
        features: the number of latents.
        labels: the number of values of each label.
        hidden: units of the layer between the labels and the latents.
        likelihood: "bernoulli" (cross entropy; grey values count as probabilities), "gaussian" (fixed deviation, means
            in (0, 1)) or "gaussian_real" (any means).
        deviation: the standard deviation of the Gaussian likelihoods.
        warmup_steps: steps over which the weight of the divergence from the prior grows from 0.1 to 1.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range.
    """

    has_labels = True

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "SmallConv", "network_size")],
        classifier: Annotated[nn.Module, Component("networks", "SmallConv", "classifier_size")],
        prior: Annotated[LazyDistribution, Component("priors", "StandardNormal")],
        features: int,
        labels: Sequence[int],
        hidden: int = 128,
        likelihood: Likelihood = "bernoulli",
        deviation: float = 0.1,
        warmup_steps: int = 500,
        learning_rate: float = 2e-3,
        prior_learning_rate: float = 1e-2,
    ) -> None:
        super().__init__(network, prior, likelihood, deviation, warmup_steps, learning_rate, prior_learning_rate)
        check_at_least_one(hidden=hidden)
        self.labels = Labels(labels)
        self.classifier: nn.Module = classifier.encoder  # type: ignore[assignment]
        self.from_labels = perceptron(self.labels.total, hidden, 2 * features)

    @staticmethod
    def network_size(features: int, labels: Sequence[int], **_: Any) -> dict[str, Any]:
        """What the network is to be made for."""
        return {"features": features + number_of_values(labels), "outputs": 2 * features}

    @staticmethod
    def classifier_size(labels: Sequence[int], **_: Any) -> dict[str, Any]:
        """What the classifier is to be made for."""
        return {"outputs": number_of_values(labels)}

    # the model

    def _logits(self, x: Tensor) -> Sequence[Tensor]:
        """Of the classifier, (batch, values) for each label."""
        logits: Tensor = self.classifier(x)
        return logits.split(self.labels.sizes, -1)

    def completed(self, logits: Sequence[Tensor], y: Tensor | None) -> Tensor:
        """The labels, long (batch, labels): the classifier's where they are unknown."""
        found = torch.stack([values.argmax(-1) for values in logits], -1)
        return found if y is None else torch.where(y < 0, found, y)

    def _given(self, y: Tensor) -> Normal:
        """What z is standardised by given labels (batch, total): elementwise normals."""
        return normal(self.from_labels(y)).base_dist

    def log_prior(self, z: Tensor, y: Tensor) -> Tensor:
        """log p(z | y) in nats, (*samples, batch): z (*samples, batch, features), y as numbers (batch, total)."""
        given = self._given(y)
        found: Tensor = self.prior().log_prob((z - given.loc) / given.scale) - given.scale.log().sum(-1)
        return found

    def _terms(
        self, x: Tensor, y: Tensor | None, logits: Sequence[Tensor], samples: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor, Distribution]:
        """log p(x | z, y) and log p(z | y) at posterior samples, (*samples, batch), the samples, and q."""
        q = self.posterior(x)
        z = q.rsample(samples)
        numbers = self.labels(self.completed(logits, y))
        code = torch.cat([z, numbers.expand(*z.shape[:-1], -1)], -1)
        return self.log_likelihood(x, code), self.log_prior(z, numbers), z, q

    # bounds

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A one-sample estimate of the lower bound of log p(x | y), (batch,), in nats; unknown labels are imputed."""
        reconstruction, log_p, z, q = self._terms(x, y, self._logits(x))
        return reconstruction - estimated_divergence(q, log_p, z)

    def log_weights(self, x: Tensor, y: Tensor | None, samples: int) -> Tensor:
        """log p(x, z | y) / q(z | x) of posterior samples, (samples, batch); unknown labels are imputed."""
        reconstruction, log_p, z, q = self._terms(x, y, self._logits(x), (samples,))
        return reconstruction + log_p - q.log_prob(z)

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log."""
        logits = self._logits(x)
        each, log_p, z, q = self._terms(x, y, logits)
        reconstruction, away = each.mean(), estimated_divergence(q, log_p, z).mean()
        loss = self.warmth * away - reconstruction
        found = {"elbo": reconstruction - away, "reconstruction": reconstruction, "divergence": away}
        if y is not None:
            self.labels.count(y)
            wrong = [
                functional.cross_entropy(values, v, ignore_index=-1, reduction="sum") / (v >= 0).sum().clamp_min(1)
                for values, v in zip(logits, y.unbind(-1), strict=True)
            ]
            found["log_p_labels"] = -torch.stack(wrong).sum()
            loss = loss - found["log_p_labels"]
        return loss, found

    # use

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The posterior's mean and the classifier's labels as numbers, what the decoder takes."""
        return torch.cat([self.posterior(x).mean, self.labels(self.completed(self._logits(x), None))], -1)

    @torch.no_grad()
    def sample(self, count: int, y: Any = None) -> Tensor:
        """Draws (count, *shape): z given the labels, then the decoder's mean.

        Arguments:
            count: how many.
            y: what is known of the labels, see :meth:`tn_vae.labels.Labels.values`; what is not is drawn.
        """
        numbers = self.labels(self.labels.values(y, count, complete=True))
        given = self._given(numbers)
        z = given.loc + given.scale * self.prior().sample((count,))
        return self.decode(torch.cat([z, numbers], -1))

    @torch.no_grad()
    def impute(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """For each label the classifier's probabilities (batch, values); the other labels are not looked at."""
        return [values.softmax(-1) for values in self._logits(x)]
