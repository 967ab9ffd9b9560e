"""What models of images and labels share: p(x | z), p(y | z), and the posteriors q(z | x, y) and q(z | x)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tn_vae.autoencoder import (
    Normals,
    VariationalAutoencoder,
    check_at_least_one,
    check_not_negative,
    divergence,
    normal,
)
from tn_vae.labels import LabelDecoder, Labels, perceptron

__all__ = ["JointAutoencoder"]


class JointAutoencoder(VariationalAutoencoder):
    """A model of images and labels with a decoder of either and one encoder.

    A subclass says what q(z | y) is, and what is maximised.

    Arguments:
        network: a pair with an ``encoder`` of 4 * features numbers, the first half for q(z | x), the second for
            q(z | x, y), and a ``decoder``.
        prior: a module whose call returns a distribution over latents.
        features: the number of latents.
        labels: the number of values of each label.
        hidden: units of the layer between image, labels and q(z | x, y).
        label_weight: the weight of the labelled items' mean log p(y_ob | z), in addition to its part in the bounds.
        training: the arguments of :class:`VariationalAutoencoder` after its network and prior.
    """

    has_labels = True

    def __init__(
        self,
        network: nn.Module,
        prior: nn.Module,
        features: int,
        labels: Sequence[int],
        hidden: int,
        label_weight: float,
        *training: Any,
    ) -> None:
        super().__init__(network, prior, *training)
        check_at_least_one(hidden=hidden)
        check_not_negative(label_weight=label_weight)
        self.features, self.label_weight = features, label_weight
        self.labels = Labels(labels)
        self.label_decoder = LabelDecoder(features, labels)
        self.from_both = perceptron(2 * features + self.labels.total, hidden, 2 * features)

    @staticmethod
    def network_size(features: int, **_: Any) -> dict[str, Any]:
        """What the network is to be made for."""
        return {"features": features, "outputs": 4 * features}

    def posteriors(self, x: Tensor, y: Tensor) -> tuple[Normals, Normals]:
        """q(z | x) and q(z | x, y_ob)."""
        of_image, of_both = self._outputs(x, y)
        return normal(of_image), normal(of_both)

    def _outputs(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers of both, (batch, 2 * features) each."""
        outputs = self.network.encoder(x)
        if outputs.shape[-1] != 4 * self.features:
            raise ValueError(f"the encoder must give 4 * {self.features} numbers, it gives {outputs.shape[-1]}")
        of_image, of_both = outputs.chunk(2, -1)
        return of_image, self.from_both(torch.cat([of_both, self.labels(y)], -1))

    def posterior(self, x: Tensor) -> Normals:
        """q(z | x): independent normals, batch (batch,), event (features,)."""
        return normal(self.network.encoder(x)[..., : 2 * self.features])

    def given_labels(self, y: Tensor) -> Normals:
        """q(z | y_ob), batch (batch,); y long (batch, labels), -1 unknown."""
        raise NotImplementedError

    def noted(self, x: Tensor, y: Tensor | None) -> Tensor:
        """A training batch's labels, long (batch, labels), all unknown if there are none; their values are counted."""
        if y is None:
            return torch.full((len(x), len(self.labels.sizes)), -1, device=x.device)
        self.labels.count(y)
        return y

    def _best(self, x: Tensor, y: Tensor | None) -> Normals:
        """The posterior given all that is there: of items without a label q(z | x), which was trained to do without."""
        if y is None:
            return self.posterior(x)
        of_image, of_both = self._outputs(x, y)
        return normal(torch.where((y >= 0).any(-1, keepdim=True), of_both, of_image))

    def _log_p_labels(self, z: Tensor, y: Tensor | None) -> Tensor:
        return z.new_zeros(z.shape[:-1]) if y is None else self.label_decoder.log_prob(z, y)

    # bounds

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A one-sample estimate of the lower bound of log p(x, y_ob), (batch,), in nats."""
        q = self._best(x, y)
        z = q.rsample()
        return self.log_likelihood(x, z) + self._log_p_labels(z, y) - divergence(q, self.prior(), z)

    def log_weights(self, x: Tensor, y: Tensor | None, samples: int) -> Tensor:
        """log p(x, y_ob, z) / q(z | x, y_ob) of posterior samples, (samples, batch)."""
        q = self._best(x, y)
        z = q.rsample((samples,))
        log_p = self.log_likelihood(x, z) + self._log_p_labels(z, y)
        return log_p + self.prior().log_prob(z) - q.log_prob(z)

    # use

    @torch.no_grad()
    def sample(self, count: int, y: Any = None) -> Tensor:
        """Draws (count, *shape): z from q(z | y_ob), or from the prior if nothing is known, then the decoder's mean.

        Arguments:
            count: how many.
            y: what is known of the labels, see :meth:`tn_vae.labels.Labels.values`.
        """
        if y is None:
            return self.decode(self.prior().sample((count,)))
        return self.decode(self.given_labels(self.labels.values(y, count, complete=False)).sample())

    @torch.no_grad()
    def impute(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """For each label the probabilities of its values (batch, values): p(y | z) at the posterior's mean."""
        return self.label_decoder.probabilities(self._best(x, y).mean)
