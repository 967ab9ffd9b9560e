"""What autoencoders share: optimiser and use; and variational ones: likelihoods, normal posteriors, warm-up.

A model is one file beside this one: it says what its bound is. Data are in [0, 1] unless the likelihood is
"gaussian_real"; all bounds are in nats per example.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence
from torch.nn import functional

from tn_core.training import VALIDATION

__all__ = [
    "Autoencoder",
    "Batch",
    "Likelihood",
    "Normals",
    "VariationalAutoencoder",
    "check_at_least_one",
    "check_choice",
    "check_not_negative",
    "check_positive",
    "divergence",
    "estimated_divergence",
    "normal",
    "parts",
    "same_in_all_processes",
    "some_items",
]

if TYPE_CHECKING:
    Normals = Independent[Normal]
else:
    Normals = Independent

Likelihood = Literal["bernoulli", "gaussian", "gaussian_real"]
"""p(x | z): cross entropy (grey values count as probabilities); a Gaussian of fixed deviation about a mean in (0, 1);
the same about any mean."""

Batch = Tensor | tuple[Tensor, Tensor]
"""Data ``x``, or ``(x, y)`` with labels long (batch, labels), -1 where unknown."""


def normal(outputs: Tensor) -> Normals:
    """Independent normals from means and log deviations side by side, (batch, 2 * features)."""
    mean, log_deviation = outputs.chunk(2, -1)
    # bounded smoothly, so that neither a tiny nor a huge deviation ends in NaN
    deviation = torch.exp(7 * torch.tanh(log_deviation / 7))
    return Independent(Normal(mean, deviation, validate_args=False), 1, validate_args=False)


def divergence(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """KL(q || p) in nats: in closed form between independent normals, else an estimate from samples z of q."""
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return kl_divergence(q, p)
    return estimated_divergence(q, p.log_prob(z), z)


def estimated_divergence(q: Distribution, log_p: Tensor, z: Tensor) -> Tensor:
    r"""An estimate of KL(q || p) in nats from samples z of q and log p(z), with a control variate.

        KL(q || r) + log r(z) - log p(z)

    has the same mean for every r. Here r is the normal with the mean and variance of the whole batch's latents. A
    learned prior comes to resemble it: the two nearly cancel, and the estimate is nearly as quiet as a closed form.

    Arguments:
        q: independent normals, batch (\*batch,), event (features,).
        log_p: (\*batch,).
        z: (\*batch, features).
    """
    with torch.no_grad():
        means = q.mean.flatten(0, -2)
        variance = means.var(0, correction=0) + q.variance.flatten(0, -2).mean(0)
        r = Independent(Normal(means.mean(0), variance.sqrt(), validate_args=False), 1, validate_args=False)
    return kl_divergence(q, r.expand(q.batch_shape)) + r.log_prob(z) - log_p


class Autoencoder(LightningModule):
    """An autoencoder with a prior over its latents; a subclass says what its loss is.

    Arguments:
        network: a pair with an ``encoder`` and a ``decoder``.
        prior: a module whose call returns a distribution over latents.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range.
    """

    network: Any  # an nn.Module, with the submodules encoder and decoder
    prior: Any  # a LazyDistribution, perhaps with labels
    exchangeable_prior = False
    """Whether the prior is that of :meth:`latents`, so that any other one can be fitted to them."""

    def __init__(self, network: nn.Module, prior: nn.Module, learning_rate: float, prior_learning_rate: float) -> None:
        super().__init__()
        check_positive(learning_rate=learning_rate)
        check_not_negative(prior_learning_rate=prior_learning_rate)
        self.network, self.prior = network, prior
        self.learning_rate, self.prior_learning_rate = learning_rate, prior_learning_rate

    # what a subclass says

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Latents (batch, features): the posterior's mean where there is one."""
        raise NotImplementedError

    def latents(self, x: Tensor) -> Tensor:
        """Latents (batch, features): a sample of the posterior where there is one."""
        return self.encode(x)

    # training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss, found = self.objective(*parts(batch))
        self.log_dict(dict(found), on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with a learning rate of its own for the prior."""
        of_prior = {id(p) for p in self.prior.parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters() if id(p) not in of_prior], "lr": self.learning_rate}
        ]
        learnable = [p for p in self.prior.parameters() if p.requires_grad]
        if learnable and self.trains_prior:
            groups.append({"params": learnable, "lr": self.prior_learning_rate})
        return torch.optim.Adam(groups, fused=True)  # one pass over the weights: on the CPU half of the time or less

    @property
    def trains_prior(self) -> bool:
        """Whether the prior is trained together with the networks."""
        return True

    def check_items_to_fit(self) -> None:
        """Raises a ValueError if there are too few training items for the prior to be fitted to their latents."""
        batches: Any = self.trainer.train_dataloader
        items, fewest = len(batches.dataset), getattr(self.prior, "fewest_to_fit", 0)
        if items < fewest:
            raise ValueError(f"the prior is to be fitted and needs at least {fewest} training items, there are {items}")

    @torch.no_grad()
    def latents_of(self, batches: Any, limit: int = 60_000) -> tuple[Tensor, Tensor | None]:
        """Latents of at most ``limit`` items of a loader, and their labels if it has any."""
        training = self.training
        self.eval()
        latents, labels = [], []
        for x, y in some_items(batches, limit):
            latents.append(self.latents(x.to(self.device)))
            if y is not None:
                labels.append(y.to(self.device))
        self.train(training)
        return torch.cat(latents), torch.cat(labels) if labels else None

    # use

    def _mean(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The data's mean given latents, (batch, *shape)."""
        return self._mean(self.network.decoder(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """The decoded latents of data, (batch, *shape)."""
        return self.decode(self.encode(x))


class VariationalAutoencoder(Autoencoder):
    """A variational autoencoder whose bound a subclass names.

    Arguments:
        network: a pair with an ``encoder`` and a ``decoder``.
        prior: a module whose call returns a distribution over latents.
        likelihood: see :data:`Likelihood`.
        deviation: the standard deviation of the Gaussian likelihoods.
        warmup_steps: steps over which the weight of the divergence from the prior grows from 0.1 to 1.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        network: nn.Module,
        prior: nn.Module,
        likelihood: Likelihood,
        deviation: float,
        warmup_steps: int,
        learning_rate: float,
        prior_learning_rate: float,
    ) -> None:
        super().__init__(network, prior, learning_rate, prior_learning_rate)
        check_choice(likelihood=(likelihood, get_args(Likelihood)))
        check_positive(deviation=deviation)
        check_not_negative(warmup_steps=warmup_steps)
        self.likelihood, self.deviation = likelihood, deviation
        self.warmup_steps = warmup_steps
        part: Any
        for part in prior.modules():
            if hasattr(part, "bind"):  # a prior made of posteriors
                part.bind(self._posterior_of_pseudo_inputs)

    # what a subclass says

    def posterior(self, x: Tensor) -> Distribution:
        """q(z | x): independent normals, batch (batch,), event (features,)."""
        outputs = self.network.encoder(x)
        latents = getattr(self.prior, "features", outputs.shape[-1] // 2)
        if outputs.shape[-1] != 2 * latents:
            raise ValueError(
                f"the encoder gives {outputs.shape[-1]} numbers, a mean and a log deviation for "
                f"{outputs.shape[-1] / 2:g} latents, but the prior has {latents}"
            )
        return normal(outputs)

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A one-sample estimate of the lower bound, (batch,), in nats."""
        raise NotImplementedError

    def log_weights(self, x: Tensor, y: Tensor | None, samples: int) -> Tensor:
        """The log importance weights of so many posterior samples, (samples, batch)."""
        raise NotImplementedError

    def iwae(self, x: Tensor, y: Tensor | None = None, samples: int = 100) -> Tensor:
        """The importance-weighted bound with so many samples, (batch,), in nats (Burda et al. 2015, equation 8)."""
        check_at_least_one(samples=samples)
        return self.log_weights(x, y, samples).logsumexp(0) - math.log(samples)

    # the likelihood

    def log_likelihood(self, x: Tensor, code: Tensor) -> Tensor:
        """log p(x | code) in nats, (*samples, batch).

        Arguments:
            x: (batch, *shape).
            code: what the decoder takes, (*samples, batch, numbers).
        """
        logits = self.network.decoder(code.flatten(0, -2)).unflatten(0, code.shape[:-1])
        if self.likelihood == "bernoulli":
            log_p = -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        else:
            error = (x - self._mean(logits)) / self.deviation
            log_p = -0.5 * error**2 - math.log(self.deviation) - 0.5 * math.log(2 * math.pi)
        return log_p.flatten(code.ndim - 1).sum(-1)

    def _mean(self, logits: Tensor) -> Tensor:
        return logits if self.likelihood == "gaussian_real" else torch.sigmoid(logits)

    # training

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs the lower bound of log p(x)."""
        x, _ = parts(batch)
        self.log(VALIDATION, self.elbo(x).mean(), on_step=False, on_epoch=True, sync_dist=True)

    @property
    def warmth(self) -> float:
        """The weight of the divergence at this step."""
        return min(1.0, 0.1 + 0.9 * self.global_step / self.warmup_steps) if self.warmup_steps else 1.0

    def on_train_start(self) -> None:
        """Shows the data to priors that start from them."""
        for part in self.prior.modules():
            if hasattr(part, "start_from") and not part.has_started:
                data = [x for x, _ in some_items(self.trainer.train_dataloader, part.components)]
                part.start_from(torch.cat(data).to(self.device))
                same_in_all_processes(part)

    def _posterior_of_pseudo_inputs(self, x: Tensor) -> Distribution:
        """q(z | x) of what is no data: batch statistics are those of the data, and stay so."""
        training = self.network.encoder.training
        self.network.encoder.eval()
        try:
            return self.posterior(x)
        finally:
            self.network.encoder.train(training)

    # use

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The posterior's mean, (batch, features)."""
        mean: Tensor = self.posterior(x).mean
        return mean

    def latents(self, x: Tensor) -> Tensor:
        """A sample of the posterior, (batch, features)."""
        return self.posterior(x).sample()


def parts(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Data, and labels if the batch has any."""
    return (batch, None) if isinstance(batch, Tensor) else batch


def some_items(batches: Any, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Data and labels of so many items of a loader, batch by batch; of all if it has fewer."""
    for batch in batches:
        x, y = parts(batch)
        yield x[:count], None if y is None else y[:count]
        count -= len(x)
        if count <= 0:
            return


@torch.no_grad()
def same_in_all_processes(module: nn.Module) -> None:
    """Gives every process of a run the first one's numbers, where each has made its own from its share of the data."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in (*module.parameters(), *module.buffers()):
            torch.distributed.broadcast(tensor, 0)
        module.load_state_dict(module.state_dict())  # for what a module keeps beside its tensors


def check_choice(**choices: tuple[str, tuple[str, ...]]) -> None:
    """Raises a ValueError unless each value is one of its choices."""
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def check_positive(**values: float) -> None:
    """Raises a ValueError unless each value is positive."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def check_at_least_one(**values: int) -> None:
    """Raises a ValueError if a value is below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_not_negative(**values: float) -> None:
    """Raises a ValueError if a value is negative."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
