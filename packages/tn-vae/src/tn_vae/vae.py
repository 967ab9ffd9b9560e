r"""The variational autoencoder with any prior, and with labels of which any may be unknown.

    log p(x, y_ob) >= E_q(z|x) [ log p(x | z) + log p(z, y_ob) ] + H(q(z | x))

which is VAE-TTLP equation 6 and, the same, TRIP equation 14. The prior's joint log p(z, y_ob) is exact whatever part of
the labels is observed.

References:
    Kingma and Welling, Auto-Encoding Variational Bayes, 2013, https://arxiv.org/abs/1312.6114
    Burda et al., Importance Weighted Autoencoders, 2015, https://arxiv.org/abs/1509.00519
    Kuznetsov et al., Subset-Conditioned Generation (VAE-TTLP), 2018, section 3
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, sections 3.1 and 4
"""

import math
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn import functional
from zuko.lazy import LazyDistribution

from tn_core.components import Component

__all__ = ["VAE"]


class VAE(LightningModule):
    """Variational autoencoder with any prior.

    Data are in [0, 1]. Bounds are in nats per example; the loss is the negative bound, averaged over the batch, plus
    the weighted label term.

    Arguments:
        network: a pair with an ``encoder`` of twice as many outputs as there are latents, and a ``decoder``.
        prior: a module whose call returns a distribution over latents; if it has labels, those of the data.
        likelihood: "bernoulli" (cross entropy; grey values count as probabilities) or "gaussian" (fixed deviation).
        deviation: the standard deviation of the Gaussian likelihood.
        fit_prior: "jointly" with the networks, or "afterwards": the networks are trained with a standard normal prior,
            then the prior is fitted to the latents ("pretrained VAE" of VAE-TTLP).
        label_weight: the weight of log p(y_ob | z), in addition to its part in the bound; 0 is the papers' bound.
        warmup_steps: steps over which the weight of the divergence from the prior grows from 0.1 to 1.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range or the parts do not fit.
    """

    network: Any  # an nn.Module, with the submodules encoder and decoder
    prior: Any  # a LazyDistribution, perhaps with labels

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "SmallConv")],
        prior: Annotated[LazyDistribution, Component("priors", "TRIP")],
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        deviation: float = 0.1,
        fit_prior: Literal["jointly", "afterwards"] = "jointly",
        label_weight: float = 10.0,
        warmup_steps: int = 500,
        learning_rate: float = 2e-3,
        prior_learning_rate: float = 1e-2,
    ) -> None:
        super().__init__()
        if likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(f"likelihood must be 'bernoulli' or 'gaussian', got {likelihood!r}")
        if fit_prior not in ("jointly", "afterwards"):
            raise ValueError(f"fit_prior must be 'jointly' or 'afterwards', got {fit_prior!r}")
        if fit_prior == "afterwards" and not hasattr(prior, "fit"):
            raise ValueError(f"fit_prior='afterwards' needs a prior with a method fit; {type(prior).__name__} has none")
        for name, value in (("deviation", deviation), ("learning_rate", learning_rate)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name, value in (
            ("label_weight", label_weight),
            ("warmup_steps", warmup_steps),
            ("prior_learning_rate", prior_learning_rate),
        ):
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.network, self.prior = network, prior
        self.likelihood, self.deviation, self.fit_prior = likelihood, deviation, fit_prior
        self.label_weight, self.warmup_steps = label_weight, warmup_steps
        self.learning_rate, self.prior_learning_rate = learning_rate, prior_learning_rate

    # the model: q(z | x), p(x | z), p(z, y)

    def posterior(self, x: Tensor) -> Distribution:
        """q(z | x): independent normals, batch (batch,), event (features,)."""
        outputs = self.network.encoder(x)
        latents = getattr(self.prior, "features", outputs.shape[-1] // 2)
        if outputs.shape[-1] != 2 * latents:
            raise ValueError(
                f"the encoder gives {outputs.shape[-1]} numbers, a mean and a log deviation for "
                f"{outputs.shape[-1] / 2:g} latents, but the prior has {latents}"
            )
        mean, log_deviation = outputs.chunk(2, -1)
        # bounded smoothly, so that neither a tiny nor a huge deviation ends in NaN
        deviation = torch.exp(7 * torch.tanh(log_deviation / 7))
        return Independent(Normal(mean, deviation, validate_args=False), 1, validate_args=False)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) in nats: x (batch, *shape), z (*samples, batch, features); returns (*samples, batch)."""
        logits = self.network.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
        if self.likelihood == "bernoulli":
            log_p = -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        else:
            error = (x - torch.sigmoid(logits)) / self.deviation
            log_p = -0.5 * error**2 - math.log(self.deviation) - 0.5 * math.log(2 * math.pi)
        return log_p.flatten(z.ndim - 1).sum(-1)

    def log_joint(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(z, y_ob) in nats; without labels, or with a prior that has none, log p(z)."""
        if y is None or not self._has_labels:
            return self.prior().log_prob(z)
        return self.prior.log_prob_joint(z, y)

    # bounds

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A one-sample estimate of the lower bound of log p(x, y_ob), (batch,), in nats."""
        q = self.posterior(x)
        z = q.rsample()
        return self.log_likelihood(x, z) + self.log_joint(z, y) + q.entropy()

    def iwae(self, x: Tensor, y: Tensor | None = None, samples: int = 100) -> Tensor:
        """The importance-weighted bound of log p(x, y_ob) with so many samples, (batch,), in nats."""
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        q = self.posterior(x)
        z = q.rsample((samples,))
        log_w = self.log_likelihood(x, z) + self.log_joint(z, y) - q.log_prob(z)
        return log_w.logsumexp(0) - math.log(samples)

    # training

    def training_step(self, batch: Tensor | tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch ``x`` or ``(x, y)``: y long (batch, labels), -1 where unknown."""
        x, y = (batch, None) if isinstance(batch, Tensor) else batch
        q = self.posterior(x)
        z = q.rsample()
        reconstruction = self.log_likelihood(x, z).mean()
        if self.fit_prior == "afterwards":
            joint = Normal(0.0, 1.0).log_prob(z).sum(-1).mean()
        else:
            joint = self.log_joint(z, y).mean()
        divergence = -joint - q.entropy().mean()
        warm = min(1.0, 0.1 + 0.9 * self.global_step / self.warmup_steps) if self.warmup_steps else 1.0
        loss = -reconstruction + warm * divergence
        if y is not None and self._has_labels and self.label_weight > 0 and self.fit_prior == "jointly":
            label = joint - self.prior().log_prob(z).mean()  # E_q log p(y_ob | z)
            loss = loss - self.label_weight * label
            self.log("log_p_labels", label, on_step=False, on_epoch=True, sync_dist=True)
        values = {"elbo": reconstruction - divergence, "reconstruction": reconstruction, "divergence": divergence}
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    @property
    def _has_labels(self) -> bool:
        """Whether the prior is one over labels too; strangers' priors need not know the word."""
        return bool(getattr(self.prior, "labels", ()))

    def on_train_epoch_end(self) -> None:
        """Fits the prior to the latents of the training data after the last epoch, if that was to be done afterwards.

        Within the epoch, so that its checkpoint holds the fitted prior.
        """
        if self.fit_prior == "afterwards" and self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            z, y = self.latents_of(self.trainer.train_dataloader)
            self.prior.fit(z, y if self._has_labels else None)

    @torch.no_grad()
    def latents_of(self, batches: Any, limit: int = 20_000) -> tuple[Tensor, Tensor | None]:
        """Posterior samples of at most ``limit`` items of a loader, and their labels if it has any."""
        training = self.training
        self.eval()
        latents, labels, count = [], [], 0
        for batch in batches:
            x, y = (batch, None) if isinstance(batch, Tensor) else batch
            latents.append(self.posterior(x.to(self.device)).sample())
            if y is not None:
                labels.append(y.to(self.device))
            count += len(x)
            if count >= limit:
                break
        self.train(training)
        return torch.cat(latents), torch.cat(labels) if labels else None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with a learning rate of its own for the prior."""
        groups: list[dict[str, Any]] = [{"params": self.network.parameters(), "lr": self.learning_rate}]
        learnable = [p for p in self.prior.parameters() if p.requires_grad]
        if learnable and self.fit_prior == "jointly":
            groups.append({"params": learnable, "lr": self.prior_learning_rate})
        return torch.optim.Adam(groups)

    # use

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The posterior's mean, (batch, features)."""
        mean: Tensor = self.posterior(x).mean
        return mean

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z), (batch, *shape)."""
        return torch.sigmoid(self.network.decoder(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x | z) at the posterior's mean, (batch, *shape)."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def sample(self, count: int, y: Any = None) -> Tensor:
        """Draws (count, *shape): latents from the prior given what is known of the labels, then the decoder's mean.

        Arguments:
            count: how many.
            y: None; or what the prior takes, for one item (labels,) or for each (count, labels), -1 unknown.
        """
        if y is None:
            z = self.prior().sample((count,))
        elif not self._has_labels:
            raise ValueError(f"the prior {type(self.prior).__name__} has no labels to condition on")
        else:
            conditional = self.prior(y)
            z = conditional.sample((count,)) if not conditional.batch_shape else conditional.sample()
        return self.decode(z)

    @torch.no_grad()
    def impute(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """For each label the probabilities of its values (batch, values), given x and the other known labels.

        p(y | z) at the posterior's mean (VAE-TTLP section 6.5).
        """
        if not self._has_labels:
            raise ValueError(f"the prior {type(self.prior).__name__} has no labels to impute")
        found: list[Tensor] = self.prior.label_posteriors(self.encode(x), y)
        return found
