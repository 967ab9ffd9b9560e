"""What deterministic autoencoders share: one latent vector an item, and a prior that samples are drawn from.

A model is one file beside this one: it says what pulls the latents into a shape that can be sampled. Data are in [0,
1]; the reconstruction loss is the squared error, averaged over the values of an item.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tn_core.training import VALIDATION
from tn_vae.autoencoder import Autoencoder, Batch, parts, same_in_all_processes

__all__ = ["DeterministicAutoencoder"]


class DeterministicAutoencoder(Autoencoder):
    """An autoencoder whose latents are a function of the data.

    Arguments:
        network: a pair with an ``encoder`` of as many outputs as there are latents, and a ``decoder``.
        prior: a module whose call returns a distribution over latents.
        fit_prior: whether the prior is fitted to the latents of the training data after the last epoch.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range, or the prior cannot be fitted.
    """

    has_labels = False
    exchangeable_prior = True

    def __init__(
        self, network: nn.Module, prior: nn.Module, fit_prior: bool, learning_rate: float, prior_learning_rate: float
    ) -> None:
        super().__init__(network, prior, learning_rate, prior_learning_rate)
        if fit_prior and not hasattr(prior, "fit"):
            raise ValueError(f"fit_prior needs a prior with a method fit; {type(prior).__name__} has none")
        self.fit_prior = fit_prior

    @staticmethod
    def network_size(features: int, **_: Any) -> dict[str, Any]:
        """What the network is to be made for."""
        return {"outputs": features}

    def loss(self, x: Tensor, z: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch with latents z (batch, features), and what to log."""
        raise NotImplementedError

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log."""
        z = self.network.encoder(x)
        features = getattr(self.prior, "features", z.shape[-1])
        if z.shape[-1] != features:
            raise ValueError(f"the encoder gives {z.shape[-1]} latents, but the prior has {features}")
        return self.loss(x, z)

    def squared_error(self, x: Tensor, z: Tensor) -> Tensor:
        """Of data decoded from latents, averaged over values and items."""
        return (self._mean(self.network.decoder(z)) - x).square().mean()

    @property
    def trains_prior(self) -> bool:
        """Whether the prior is trained together with the networks."""
        return not self.fit_prior

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs minus the loss."""
        x, y = parts(batch)
        self.log(VALIDATION, -self.objective(x, y)[0], on_step=False, on_epoch=True, sync_dist=True)

    def on_train_start(self) -> None:
        """Says before the first step if there are too few items for the prior to be fitted to."""
        if self.fit_prior:
            self.check_items_to_fit()

    def on_train_epoch_end(self) -> None:
        """Fits the prior after the last epoch, and within it, so that its checkpoint holds the fitted prior."""
        if self.fit_prior and self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            z, _ = self.latents_of(self.trainer.train_dataloader)
            self.prior.fit(z)
            same_in_all_processes(self.prior)

    # use

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Latents, (batch, features)."""
        z: Tensor = self.network.encoder(x)
        return z

    @torch.no_grad()
    def sample(self, count: int, y: None = None) -> Tensor:
        """Draws (count, *shape): decoded latents from the prior.

        Arguments:
            count: how many.
            y: None; there are no labels.

        Raises:
            ValueError: if y is given.
        """
        if y is not None:
            raise ValueError(f"{type(self).__name__} has no labels to condition on")
        return self.decode(self.prior().sample((count,)))
