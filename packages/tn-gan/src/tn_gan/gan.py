r"""The generative adversarial network with any prior, which may be learned with the generator.

    min over G, psi  max over D:   E_p(x) log D(x) + E_p_psi(z) log(1 - D(G(z)))

which is TRIP equation 9. The generator by default maximises E log D(G(z)) instead of minimising the second term: it has
the same fixed point, and gradients that do not vanish while the discriminator wins (Goodfellow et al., section 3).

The paper estimates the gradient of the prior's parameters psi by REINFORCE (equation 10), from the discriminator's
value alone. Here it is pathwise: samples of the prior are differentiable in psi, so the gradient that reaches z through
the generator goes on to psi.

References:
    Goodfellow et al., Generative Adversarial Nets, 2014, https://arxiv.org/abs/1406.2661
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, section 3.2 and appendix C
"""

import warnings
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_core.errors import UserError

__all__ = ["GAN"]


class GAN(LightningModule):
    """Generative adversarial network with any prior.

    Data are in [0, 1]. Losses are in nats per example, averaged over the batch. Labels in a batch are not looked at: a
    prior that has labels is used with all of them unknown.

    A batch is one step of the discriminator and, every ``discriminator_steps`` batches, one of the generator together
    with the prior. Optimisation is manual, and Lightning counts ``global_step`` (and ``max_steps``) once an optimiser
    step: by default a batch adds two. The count also says whose turn it is, so that a resumed run takes the turn that
    an uninterrupted one would.

    The start of the prior is an argument of the prior: the paper has means in [-1, 1] for GANs and deviations of 1 over
    their number, that is ``mean_range=1, deviation=0.1`` for ten.

    Arguments:
        network: a pair of a discriminator, ``encoder``, with one output, and a generator, ``decoder``.
        prior: a module whose call returns a distribution over latents. If the distribution has ``rsample``, the prior's
            parameters are learned with the generator; if not, they stay as they are.
        loss: of the generator: "non-saturating", -E log D(G(z)), or "minimax", E log(1 - D(G(z))), equation 9 itself.
        discriminator_steps: steps of the discriminator to one of the generator (the paper: 4).
        learning_rate: of generator and discriminator (Adam; the paper: 1e-4).
        prior_learning_rate: of the prior.
        momentum: Adam's first decay rate (0.5 as for DCGAN; the second is 0.999).

    Raises:
        ValueError: if a number is out of its range or the network is no such pair.
    """

    has_labels = False

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "GANConv")],
        prior: Annotated[LazyDistribution, Component("priors", "TRIP")],
        loss: Literal["non-saturating", "minimax"] = "non-saturating",
        discriminator_steps: int = 1,
        learning_rate: float = 1e-3,
        prior_learning_rate: float = 3e-3,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        if loss not in ("non-saturating", "minimax"):
            raise ValueError(f"loss must be 'non-saturating' or 'minimax', got {loss!r}")
        if discriminator_steps < 1:
            raise ValueError(f"discriminator_steps must be at least 1, got {discriminator_steps}")
        for name, rate in (("learning_rate", learning_rate), ("prior_learning_rate", prior_learning_rate)):
            if not rate > 0:
                raise ValueError(f"{name} must be positive, got {rate}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and less than 1, got {momentum}")
        for name in ("encoder", "decoder"):
            if not isinstance(getattr(network, name, None), nn.Module):
                raise ValueError(f"{type(network).__name__} has no {name}: the network must be a pair of both")
        self.automatic_optimization = False
        self.network: Any = network  # to mypy, a module's submodule may be a tensor
        self.prior = prior
        self.loss, self.discriminator_steps = loss, discriminator_steps
        self.learning_rate, self.prior_learning_rate, self.momentum = learning_rate, prior_learning_rate, momentum

    # the two players: G(z) and D(x)

    def latents(self, count: int) -> Tensor:
        """Draws z from the prior, (count, features), with gradients to its parameters where it can."""
        p = self.prior()
        z: Tensor = p.rsample((count,)) if p.has_rsample else p.sample((count,))
        return z

    def generate(self, z: Tensor) -> Tensor:
        """G(z): data in [0, 1], (batch, *shape), from latents (batch, features)."""
        x: Tensor = torch.sigmoid(self.network.decoder(z))
        return x

    def discriminate(self, x: Tensor) -> Tensor:
        """The logit of D(x), the probability that x is real: (batch,).

        Raises:
            UserError: if the discriminator does not give one number an item.
        """
        score: Tensor = self.network.encoder(x)
        if score.shape != (len(x), 1):
            raise UserError(
                f"the discriminator must give one number an item, shape ({len(x)}, 1), got {tuple(score.shape)}: "
                f"build {type(self.network).__name__} with outputs=1, or take GANConv"
            )
        return score.squeeze(1)

    # what they play for, in nats; with D = sigmoid(logit), -log D = softplus(-logit), -log(1 - D) = softplus(logit)

    def discriminator_loss(self, x: Tensor) -> Tensor:
        """-E log D(x) - E log(1 - D(G(z))), a scalar, with as many latents as there are data."""
        with torch.no_grad():
            fake = self.generate(self.latents(len(x)))
        return functional.softplus(-self.discriminate(x)).mean() + functional.softplus(self.discriminate(fake)).mean()

    def generator_loss(self, count: int) -> Tensor:
        """-E log D(G(z)), or for "minimax" E log(1 - D(G(z))), a scalar, from so many latents."""
        score = self.discriminate(self.generate(self.latents(count)))
        return (functional.softplus(-score) if self.loss == "non-saturating" else -functional.softplus(score)).mean()

    # training

    def training_step(self, batch: Tensor | tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One step of the discriminator and, in its turn, of the generator, on a batch ``x`` or ``(x, y)``."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        players: Any = self.optimizers()
        generator, discriminator = players
        self._step(discriminator, "discriminator_loss", lambda: self.discriminator_loss(x))
        # a round is so many steps of the discriminator, then one of the generator
        if self.global_step % (self.discriminator_steps + 1) == self.discriminator_steps:
            self._step(generator, "generator_loss", lambda: self.generator_loss(len(x)))

    def _step(self, optimizer: Any, name: str, loss_of: Callable[[], Tensor]) -> None:
        self.toggle_optimizer(optimizer)  # the other player's parameters get no gradients
        loss = loss_of()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self.log(name, loss.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator, with a learning rate of its own for the prior, and Adam for the discriminator."""
        generator: list[dict[str, Any]] = [{"params": self.network.decoder.parameters(), "lr": self.learning_rate}]
        learnable = [p for p in self.prior.parameters() if p.requires_grad]
        if learnable and self.prior().has_rsample:
            generator.append({"params": learnable, "lr": self.prior_learning_rate})
        elif learnable:
            warnings.warn(
                f"the prior {type(self.prior).__name__} is not learned: its samples carry no gradients (no rsample)",
                stacklevel=2,
            )
        betas = (self.momentum, 0.999)
        return [
            torch.optim.Adam(generator, betas=betas),
            torch.optim.Adam(self.network.encoder.parameters(), lr=self.learning_rate, betas=betas),
        ]

    # use

    @torch.no_grad()
    def sample(self, count: int, y: Tensor | None = None) -> Tensor:
        """Draws (count, *shape) in [0, 1].

        Arguments:
            count: how many.
            y: must be None; this model does not learn from labels.

        Raises:
            ValueError: if the count is below 1, or labels are given.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if y is not None:
            raise ValueError("GAN does not learn from labels, so it cannot draw samples with given labels: leave y out")
        return self.generate(self.latents(count))
