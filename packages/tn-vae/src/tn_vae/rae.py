r"""Regularised autoencoders: deterministic ones with smooth decoders, sampled by a density that is fitted afterwards.

    L = |x - D(z)|^2 + beta / 2 |z|^2 + lambda L_reg,    z = E(x)

with L_reg the squared norm of the decoder's weights (L2), the squared norm of its Jacobian at z (gradient penalty), or
nothing but a decoder whose layers have spectral norm 1.

References:
    Ghosh et al., From Variational to Deterministic Autoencoders, 2020, equations 6 and 11 to 14
    Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_vae.autoencoder import check_choice, check_not_negative
from tn_vae.deterministic import DeterministicAutoencoder

__all__ = ["RAE"]


class RAE(DeterministicAutoencoder):
    """Regularised autoencoder.

    Arguments:
        network: a pair with an ``encoder`` of as many outputs as there are latents, and a ``decoder``.
        prior: what is fitted to the latents of the training data after the last epoch.
        regularization: "l2", "gradient" or "spectral".
        latent_weight: beta. (The paper, MNIST: 1e-4.)
        decoder_weight: lambda, of "l2" and "gradient". (The paper, L2 on MNIST: 1e-7.)
        learning_rate: of the networks (Adam).

    Raises:
        ValueError: if a number is out of its range, or the prior cannot be fitted.
    """

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "SmallConv", "network_size")],
        prior: Annotated[LazyDistribution, Component("priors", "FullGaussianMixture")],
        regularization: Literal["l2", "gradient", "spectral"] = "l2",
        latent_weight: float = 1e-4,
        decoder_weight: float = 1e-7,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(network, prior, True, learning_rate, 0.0)
        check_choice(regularization=(regularization, ("l2", "gradient", "spectral")))
        check_not_negative(latent_weight=latent_weight, decoder_weight=decoder_weight)
        self.regularization = regularization
        self.latent_weight, self.decoder_weight = latent_weight, decoder_weight
        if regularization == "spectral":
            layer: Any
            for layer in self.network.decoder.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                    spectral_norm(layer)

    def loss(self, x: Tensor, z: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The squared error of a value and the weighted penalties."""
        error, size = self.squared_error(x, z), z.square().sum(1).mean()
        loss = error + self.latent_weight / 2 * size
        found = {"squared_error": error, "latents": size}
        if self.regularization == "l2":
            found["weights"] = sum((w.square().sum() for w in self.network.decoder.parameters()), z.new_zeros(()))
            loss = loss + self.decoder_weight * found["weights"]
        elif self.regularization == "gradient" and torch.is_grad_enabled():  # not where a model is only measured
            found["jacobian"] = self.jacobian(z)
            loss = loss + self.decoder_weight * found["jacobian"]
        return loss, {"loss": loss, **found}

    def jacobian(self, z: Tensor) -> Tensor:
        """An estimate of the squared Frobenius norm of the decoder's Jacobian, averaged over latents (batch, d).

        By one random direction of the data, whose pull-back has the same squared norm in the mean.
        """
        x = self._mean(self.network.decoder(z))
        (pulled,) = torch.autograd.grad(x, z, torch.randn_like(x), create_graph=True)
        return pulled.square().sum(1).mean()
