r"""A second variational autoencoder as the prior of a first one's latents: the two-stage VAE.

    p(z) = int N(u; 0, I) N(z; D(u), gamma^2 I) du

fitted to latents z by its own bound. As wide as they are, and with a learned gamma, it can follow latents that do not
fill their space, or not as a standard normal does.

References:
    Dai and Wipf, Diagnosing and Enhancing VAE Models, 2019, https://arxiv.org/abs/1903.05789, section 4
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints
from zuko.lazy import LazyDistribution

from tn_priors.fitting import check_fit, fit_by_gradient
from tn_priors.simple import no_labels
from tn_vae.autoencoder import check_at_least_one, normal

__all__ = ["LatentVAE"]


class LatentVAE(LazyDistribution):
    """A variational autoencoder over latents, a prior that is fitted and sampled and has no density in closed form.

    Arguments:
        features: the number of latents, and of its own.
        hidden: the width of its three layers. (The paper: 1,024.)

    Raises:
        ValueError: if a number is below 1.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, features: int, hidden: int = 512) -> None:
        super().__init__()
        check_at_least_one(features=features, hidden=hidden)
        self.features = features
        self.labels: tuple[()] = ()

        def layers(outputs: int) -> nn.Sequential:
            found: list[nn.Module] = []
            for width in (features, hidden, hidden):
                found += [nn.Linear(width, hidden), nn.ReLU()]
            return nn.Sequential(*found, nn.Linear(hidden, outputs))

        self.encoder, self.decoder = layers(2 * features), layers(features)
        self.log_gamma = nn.Parameter(torch.zeros(()))
        # latents are standardised before they go in
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, y: None = None) -> "_Decoded":
        """Returns p(z), of which there are samples only.

        Arguments:
            y: None; there are no labels.

        Raises:
            ValueError: if y is given.
        """
        no_labels(self, y)
        return _Decoded(self)

    def elbo(self, z: Tensor) -> Tensor:
        """A one-sample estimate of the lower bound of log p(z), (batch,), in nats, of latents (batch, features)."""
        x = (z - self.centre) / self.scale
        q = normal(self.encoder(x))
        u = q.rsample()
        error = (x - self.decoder(u)) * (-self.log_gamma).exp()
        log_p = (-0.5 * error.square() - self.log_gamma - 0.5 * math.log(2 * math.pi) - self.scale.log()).sum(-1)
        base = q.base_dist
        divergence = 0.5 * (base.loc.square() + base.scale.square() - 1) - base.scale.log()
        return log_p - divergence.sum(-1)

    @torch.no_grad()
    def fit(self, z: Tensor, y: None = None, *, steps: int = 5000, learning_rate: float = 1e-3) -> None:
        """Trains it on latents of any model.

        Arguments:
            z: latents (samples, features).
            y: None; there are no labels.
            steps: of Adam.
            learning_rate: at the start; it falls to zero.

        Raises:
            ValueError: if z has another shape, too few samples or is not finite, y is given, or a number is out of its
                range.
        """
        no_labels(self, y)
        check_fit(z, self.features, None, steps, learning_rate)
        self.centre.copy_(z.mean(0))
        self.scale.copy_(z.std(0).clamp_min(1e-6))
        parameters = [*self.encoder.parameters(), *self.decoder.parameters(), self.log_gamma]
        fit_by_gradient(lambda z, _: self.elbo(z), parameters, z, None, steps, learning_rate)

    def extra_repr(self) -> str:
        """The number of latents."""
        return f"features={self.features}"


class _Decoded(Distribution):
    """What a variational autoencoder over latents generates."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, prior: LatentVAE) -> None:
        self.prior: Any = prior
        super().__init__(Size(), Size([prior.features]), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draws latents (\*sample_shape, d)."""
        u = torch.randn(*sample_shape, self.prior.features).to(self.prior.centre)
        x = self.prior.decoder(u.reshape(-1, u.shape[-1])).reshape(u.shape)
        x = x + self.prior.log_gamma.exp() * torch.randn_like(x)
        found: Tensor = self.prior.centre + self.prior.scale * x
        return found
