r"""CP-VAE: a categorical and a continuous latent, the continuous one with a learned prior for each category.

    p(x, z, c) = p(x | z, c) p(z | c) p(c),     q(z, c | x) = q(z | x, c) q(c | x)

The bound is E_q log p(x | z, c) - KL(q(c | x) || p(c)) - E_q(c|x) KL(q(z | x, c) || p(z | c)), whose divergences are
sums over the categories (equations 7 to 9). What the encoder says of z is gated by c, so that every category has its
own q(z | x, c).

References:
    Lavda et al., Improving VAE generations of multimodal data through data-dependent conditional priors, 2020
    Jang et al., Categorical Reparameterization with Gumbel-Softmax, 2017, https://arxiv.org/abs/1611.01144
"""

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MultivariateNormal, Normal, kl_divergence
from torch.nn import functional
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_priors import GaussianMixture, VampPrior
from tn_priors.simple import log_densities
from tn_vae.autoencoder import (
    Likelihood,
    Normals,
    VariationalAutoencoder,
    check_not_negative,
    check_positive,
    divergence,
    normal,
    parts,
    same_in_all_processes,
)

__all__ = ["CPVAE"]

TOLD_STEPS, TOLD_WEIGHT = 2_000, 10.0
_MIXTURES = (GaussianMixture, VampPrior)


def _categories(prior: nn.Module, categories: int | None) -> int:
    """How many categories there are, from the prior unless it is no mixture."""
    if isinstance(prior, _MIXTURES):
        if categories not in (None, prior.components):
            raise ValueError(f"categories is {categories}, but the prior has {prior.components} components")
        return prior.components
    if categories is None or categories < 1:
        raise ValueError(f"with the prior {type(prior).__name__} categories must be at least 1, got {categories}")
    return categories


class Given(nn.Module):
    """q(z | x, c): what x says of z, gated by the category.

    Arguments:
        features: the continuous latents.
        categories: the number of categories.
    """

    def __init__(self, features: int, categories: int) -> None:
        super().__init__()
        self.gate = nn.Linear(categories, 2 * features)
        self.to_latents = nn.Linear(2 * features, 2 * features)

    def forward(self, numbers: Tensor, c: Tensor) -> Normals:
        """From what x says of z (*batch, 2 * features) and categories as numbers (*batch, categories)."""
        return normal(self.to_latents(numbers * torch.sigmoid(self.gate(c))))


class CPVAE(VariationalAutoencoder):
    """Variational autoencoder with data-dependent conditional priors.

    Arguments:
        network: a pair whose decoder takes z and c, features + categories, and whose encoder gives 2 * features +
            categories numbers: those of z, then the logits of c.
        prior: a GaussianMixture or a VampPrior: its weights are p(c) (the paper's are uniform), its Gaussians p(z | c).
            With any other prior p(z), z does not depend on c and p(c) is uniform.
        features: the continuous latents.
        categories: the number of categories; None: the prior's Gaussians.
        temperature: of the relaxed categories at the start.
        final_temperature: reached after ``temperature_steps``.
        temperature_steps: steps over which the temperature falls, exponentially.
        straight_through: whether the decoder is given one-hot categories, with the gradient of the relaxed ones. Given
            relaxed ones, the networks may learn to say more by them than the divergences, of one-hot ones, count.
        start_epochs: epochs at first in which categories are drawn from p(c) and say nothing of the data. At their end
            a mixture of Gaussians, of full covariances, finds clusters in the latents; then all begins anew, with
            categories that are told these clusters for 2,000 steps; this needs a GaussianMixture as prior. 0: they are
            inferred from the first step on.
        likelihood: "bernoulli" (cross entropy; grey values count as probabilities), "gaussian" (fixed deviation, means
            in (0, 1)) or "gaussian_real" (any means).
        deviation: the standard deviation of the Gaussian likelihoods.
        warmup_steps: steps over which the weight of the divergence from the prior grows from 0.1 to 1.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range or the parts do not fit.
    """

    has_labels = False
    inferred: Tensor
    shares: Tensor
    _counts: Tensor

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "GatedMLP", "network_size")],
        prior: Annotated[LazyDistribution, Component("priors", "GaussianMixture")],
        features: int,
        categories: int | None = None,
        temperature: float = 1.0,
        final_temperature: float = 0.5,
        temperature_steps: int = 100_000,
        straight_through: bool = True,
        start_epochs: int = 0,
        likelihood: Likelihood = "bernoulli",
        deviation: float = 0.1,
        warmup_steps: int = 500,
        learning_rate: float = 5e-4,
        prior_learning_rate: float = 5e-4,
    ) -> None:
        super().__init__(network, prior, likelihood, deviation, warmup_steps, learning_rate, prior_learning_rate)
        check_positive(
            temperature=temperature, final_temperature=final_temperature, temperature_steps=temperature_steps
        )
        check_not_negative(start_epochs=start_epochs)
        if start_epochs and not isinstance(prior, GaussianMixture):
            raise ValueError(f"start_epochs needs a prior GaussianMixture, got {type(prior).__name__}")
        categories = _categories(prior, categories)
        self.features, self.categories = features, categories
        self.temperature, self.final_temperature = temperature, final_temperature
        self.temperature_steps, self.straight_through = temperature_steps, straight_through
        self.start_epochs = start_epochs
        self.register_buffer("inferred", torch.tensor(0.0 if start_epochs else 1.0))  # whether categories are
        self.given = Given(features, categories)
        self.register_buffer("shares", torch.full((categories,), 1 / categories))  # q(c), of the last epoch's data
        self.register_buffer("_counts", torch.zeros(categories), persistent=False)

    @staticmethod
    def network_size(features: int, prior: nn.Module, categories: int | None = None, **_: Any) -> dict[str, int]:
        """What the network is to be made for."""
        count = _categories(prior, categories)
        return {"features": features + count, "outputs": 2 * features + count}

    # the model

    def posteriors(self, x: Tensor) -> tuple[Tensor, Categorical]:
        """What x says of z, (batch, 2 * features), and q(c | x)."""
        outputs = self.network.encoder(x)
        if outputs.shape[-1] != 2 * self.features + self.categories:
            raise ValueError(
                f"the encoder must give 2 * {self.features} + {self.categories} numbers, it gives {outputs.shape[-1]}"
            )
        numbers, logits = outputs.split([2 * self.features, self.categories], -1)
        return numbers, Categorical(logits=logits * self.inferred, validate_args=False)

    def posterior(self, x: Tensor) -> Distribution:
        """q(z | x, c) of the likeliest category: independent normals, batch (batch,), event (features,)."""
        numbers, q_c = self.posteriors(x)
        return self.given(numbers, self._one_hot(q_c.probs.argmax(-1)))

    def _prior(self, p: Distribution) -> tuple[Categorical, Normals | None]:
        """p(c), and p(z | c) with a batch of categories, if z depends on c."""
        if isinstance(self.prior, _MIXTURES):
            return p.mixture_distribution, p.component_distribution  # type: ignore[attr-defined]
        return Categorical(logits=torch.zeros_like(self.shares)), None

    def divergences(self, numbers: Tensor, q_c: Categorical) -> tuple[Tensor, Tensor]:
        """KL(q(c | x) || p(c)) and E_q(c|x) KL(q(z | x, c) || p(z | c)), (batch,) each: B1 and B2 of equation 8."""
        p = self.prior()
        p_c, p_z = self._prior(p)
        of_categories = (q_c.probs * (q_c.logits - p_c.logits)).sum(-1)
        every = torch.eye(self.categories, device=numbers.device, dtype=numbers.dtype)
        q_z = self.given(numbers.unsqueeze(-2), every)  # batch (batch, categories)
        each = divergence(q_z, p, q_z.rsample()) if p_z is None else kl_divergence(q_z, p_z.expand(q_z.batch_shape))
        return of_categories, (q_c.probs * each).sum(-1)

    def _one_hot(self, c: Tensor) -> Tensor:
        return functional.one_hot(c, self.categories).to(self.shares)

    # bounds

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A one-sample estimate of the lower bound of log p(x), (batch,), in nats; labels are not looked at."""
        numbers, q_c = self.posteriors(x)
        c = self._one_hot(q_c.sample())
        z = self.given(numbers, c).rsample()
        of_categories, of_latents = self.divergences(numbers, q_c)
        return self.log_likelihood(x, torch.cat([z, c], -1)) - of_categories - of_latents

    def log_weights(self, x: Tensor, y: Tensor | None, samples: int) -> Tensor:
        """log p(x, z, c) / q(z, c | x) of posterior samples, (samples, batch)."""
        numbers, q_c = self.posteriors(x)
        k = q_c.sample((samples,))
        c = self._one_hot(k)
        q_z = self.given(numbers, c)
        z = q_z.rsample()
        p = self.prior()
        p_c, p_z = self._prior(p)
        log_p = p.log_prob(z) if p_z is None else normal_at(p_z, k).log_prob(z)
        log_p = log_p + p_c.log_prob(k) + self.log_likelihood(x, torch.cat([z, c], -1))
        return log_p - q_z.log_prob(z) - q_c.log_prob(k)

    # training

    @property
    def softness(self) -> float:
        """The temperature at this step."""
        done = min(1.0, self.global_step / self.temperature_steps)
        return self.temperature * (self.final_temperature / self.temperature) ** done

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log."""
        numbers, q_c = self.posteriors(x)
        c = functional.gumbel_softmax(q_c.logits, self.softness, self.straight_through)
        z = self.given(numbers, c).rsample()
        reconstruction = self.log_likelihood(x, torch.cat([z, c], -1)).mean()
        of_categories, of_latents = (term.mean() for term in self.divergences(numbers, q_c))
        self._counts += q_c.probs.detach().sum(0)
        away = of_categories + of_latents
        found = {"elbo": reconstruction - away, "reconstruction": reconstruction, "divergence": away}
        found |= {"divergence_categories": of_categories, "divergence_latents": of_latents}
        return self.warmth * away - reconstruction, found

    def setup(self, stage: str) -> None:
        """Keeps the weights as they are before the first step, for the start of the categories."""
        if stage == "fit" and self.start_epochs:
            self._untrained = copy.deepcopy(self.state_dict())

    def on_train_epoch_start(self) -> None:
        """Starts to count anew."""
        self._counts.zero_()

    def on_train_epoch_end(self) -> None:
        """Keeps the aggregated posterior of the categories, q(c) (equation 14), and starts them when it is time."""
        if self.trainer.current_epoch + 1 == self.start_epochs:
            self._start_categories()
        counts: Any = self.all_gather(self._counts)  # of all processes
        total = counts.reshape(-1, self.categories).sum(0)
        self.shares.copy_(total / total.sum())

    def _start_categories(self) -> None:
        """Begins anew with categories that tell the clusters of the latents.

        All weights are as they were before the first step, as networks that have learned to do without categories keep
        doing so. For a while q(c | x) is told the clusters, beside the bound. Within the epoch, so that its checkpoint
        holds what was found.
        """
        from sklearn import mixture

        batches: Any = self.trainer.train_dataloader
        z, _ = self.latents_of(batches)
        found = mixture.GaussianMixture(self.categories, n_init=10, random_state=0).fit(z.double().cpu().numpy())
        weights, means, covariances = (
            torch.from_numpy(x).to(z) for x in (found.weights_, found.means_, found.covariances_)
        )
        clusters = MultivariateNormal(means, covariances)
        encoder, given = copy.deepcopy(self.network.encoder).eval(), copy.deepcopy(self.given)
        self.load_state_dict(self._untrained)
        self.inferred.fill_(1.0)
        self._counts.zero_()
        optimiser = self.configure_optimizers()
        again_and_again = itertools.chain.from_iterable(itertools.repeat(batches))
        for batch in itertools.islice(again_and_again, min(TOLD_STEPS, 20 * len(batches))):
            x = parts(batch)[0].to(self.device)
            with torch.no_grad():
                numbers = encoder(x)[..., : 2 * self.features]
                z = given(numbers, self._one_hot(numbers.new_zeros(len(x)).long())).mean
                share = (clusters.log_prob(z.unsqueeze(1)) + weights.log()).softmax(-1)
            with torch.enable_grad():
                loss, _ = self.objective(x, None)
                loss = loss + TOLD_WEIGHT * functional.cross_entropy(self.posteriors(x)[1].logits, share)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        same_in_all_processes(self)
        self.trainer.optimizers[0].state.clear()  # what it remembers is of another model

    # use

    @torch.no_grad()
    def sample(
        self,
        count: int,
        y: None = None,
        *,
        categories: Literal["posterior", "prior"] = "posterior",
        cluster: int | None = None,
    ) -> Tensor:
        """Draws (count, *shape): a category, latents given it, then the decoder's mean.

        Arguments:
            count: how many.
            y: None; there are no labels.
            categories: drawn from the aggregated posterior q(c) (the paper's way) or from the prior p(c).
            cluster: draw all from this category.
        """
        if y is not None:
            raise ValueError("CPVAE has no labels to condition on")
        p = self.prior()
        p_c, p_z = self._prior(p)
        if cluster is not None:
            c = torch.full((count,), cluster, device=self.shares.device)
        else:
            c = (Categorical(self.shares) if categories == "posterior" else p_c).sample((count,))
        z = p.sample((count,)) if p_z is None else normal_at(p_z, c).sample()
        return self.decode(torch.cat([z, self._one_hot(c)], -1))

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The mean of z given the likeliest category, and that, one-hot, (batch, features + categories)."""
        numbers, q_c = self.posteriors(x)
        c = self._one_hot(q_c.probs.argmax(-1))
        return torch.cat([self.given(numbers, c).mean, c], -1)

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return self.categories

    @torch.no_grad()
    def assign(self, x: Tensor) -> Tensor:
        """The likeliest category, long (batch,)."""
        return self.posteriors(x)[1].probs.argmax(-1)

    @torch.no_grad()
    def decompose(self, x: Tensor) -> dict[str, float]:
        """The terms of equation 13 in nats, with the items given, (items, *shape), as the whole of the data.

        The mean "divergence" is the "information" I_q((z, c), x), at most the log of the number of items, plus the
        "mismatch" E_q(c) KL(q(z | c) || p(z | c)), minus the "entropy" H(q(c)), plus log K. The mismatch is what is
        left, and holds KL(q(c) || p(c)) too where p(c) is not uniform.
        """
        numbers, q_c = self.posteriors(x)
        of_categories, of_latents = self.divergences(numbers, q_c)
        total = (of_categories + of_latents).mean()
        k = q_c.sample()
        information = total.new_zeros(())
        for category in k.unique():  # log q(z, c | x) less the log of its mean over the items, at a sample of each
            q_z = self.given(numbers, self._one_hot(category))
            z, base = q_z.sample(), q_z.base_dist
            for here in (k == category).nonzero().squeeze(1).split(1000):
                every = log_densities(z[here], base.loc, base.scale)
                every = every + q_c.logits[:, category]  # shape: (samples here, items)
                own = every.gather(1, here.unsqueeze(1)).squeeze(1)
                information += (own - every.logsumexp(1) + math.log(len(x))).sum() / len(x)
        shares = q_c.probs.mean(0)
        entropy = Categorical(shares).entropy()
        log_k = math.log(self.categories)
        mismatch = total - information + entropy - log_k
        found = {"divergence": total, "information": information, "mismatch": mismatch, "entropy": entropy}
        return {name: float(value) for name, value in found.items()}


def normal_at(normals: Normals, c: Tensor) -> Normals:
    """p(z | c) for categories c (...): independent normals, batch (...)."""
    base = normals.base_dist
    return Independent(Normal(base.loc[c], base.scale[c], validate_args=False), 1, validate_args=False)
