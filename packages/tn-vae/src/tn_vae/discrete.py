"""What variational autoencoders with a category beside the continuous latents share. The categories are clusters."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tn_vae.autoencoder import Likelihood, VariationalAutoencoder, check_at_least_one

__all__ = ["DiscreteVAE"]


class DiscreteVAE(VariationalAutoencoder):
    """A variational autoencoder with continuous latents z and a category c, uniform in the prior.

    Arguments:
        network: a pair whose decoder takes z and c one-hot, features + categories numbers.
        prior: of z.
        features: the continuous latents.
        categories: the values of c.
        likelihood: see :data:`tn_vae.autoencoder.Likelihood`.
        deviation: the standard deviation of the Gaussian likelihoods.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range.
    """

    has_labels = False

    def __init__(
        self,
        network: nn.Module,
        prior: nn.Module,
        features: int,
        categories: int,
        likelihood: Likelihood,
        deviation: float,
        learning_rate: float,
        prior_learning_rate: float,
    ) -> None:
        super().__init__(network, prior, likelihood, deviation, 0, learning_rate, prior_learning_rate)
        check_at_least_one(features=features, categories=categories)
        self.features, self.categories = features, categories

    def code(self, z: Tensor, c: Tensor) -> Tensor:
        """What the decoder takes, (*batch, features + categories).

        Arguments:
            z: (*batch, features).
            c: long (*batch,).
        """
        return torch.cat([z, functional.one_hot(c, self.categories).to(z)], -1)

    def likeliest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of z, (batch, features), and the likeliest category, long (batch,)."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The mean of z and the likeliest category, one-hot, (batch, features + categories)."""
        return self.code(*self.likeliest(x))

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return self.categories

    @torch.no_grad()
    def assign(self, x: Tensor) -> Tensor:
        """The likeliest category, long (batch,)."""
        return self.likeliest(x)[1]

    @torch.no_grad()
    def sample(self, count: int, y: None = None, cluster: int | None = None) -> Tensor:
        """Draws (count, *shape): latents from the priors, then the decoder's mean.

        Arguments:
            count: how many.
            y: None; there are no labels.
            cluster: draw all from this category.

        Raises:
            ValueError: if y is given.
        """
        if y is not None:
            raise ValueError(f"{type(self).__name__} has no labels to condition on")
        z = self.prior().sample((count,))
        c = torch.randint(self.categories, (count,)) if cluster is None else torch.full((count,), cluster)
        return self.decode(self.code(z, c.to(z.device)))
