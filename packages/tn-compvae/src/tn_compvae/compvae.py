r"""The compositional variational autoencoder: wholes made of sets of parts.

    p(x, z, {w_i} | {l_i}) = p(x | z, w) p(z | w) prod_i p(w_i | l_i),    w = sum_i w_i            (equation 1)
    q(z, {w_i} | x, {l_i}) = q(z | x) q({w_i} | x, z, {l_i})

Part i has a category l_i and latents w_i; the whole depends on the parts through their sum alone, so that neither their
order nor their number matters to the networks; z holds what concerns the whole.

    log p(x | {l_i}) >= E_q [ log p(x | z, w) + log p(z | w) - log q(z | x)
                              - KL(q({w_i} | x, z, {l_i}) || prod_i p(w_i | l_i)) ]

which is the negative of equation 4. Given z the divergence of the parts is in closed form; that of z is not, because w
depends on it, and is estimated by the same sample (algorithm 1).

References:
    Berger and Sebag, Compositional Variational Auto-Encoder, 2020
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.nn import functional

from tn_compvae.networks import MessagePassing, mlp
from tn_compvae.posterior import PartsPosterior

__all__ = ["CompVAE", "Noise"]


class Noise(NamedTuple):
    r"""All that is random in one pass, standard normal.

    Attributes:
        whole: of z, (batch, global_features).
        nodes: of the nodes of the graph network, (batch, parts, embedding).
        parts: of the w_i, (batch, parts, features).
    """

    whole: Tensor
    nodes: Tensor
    parts: Tensor


class _Pass(NamedTuple):
    """One pass through the model: the terms of the bound, each (batch,), in nats."""

    reconstruction: Tensor  # log p(x | z, w)
    whole: Tensor  # log q(z | x) - log p(z | w)
    parts: Tensor  # KL(q({w_i} | ...) || prod_i p(w_i | l_i))
    sampled_parts: Tensor  # log q({w_i} | ...) - sum_i log p(w_i | l_i) at the sample

    @property
    def elbo(self) -> Tensor:
        return self.reconstruction - self.whole - self.parts


class CompVAE(LightningModule):
    r"""Compositional variational autoencoder.

    A set of parts is y: long (batch, parts), the categories of the parts, -1 in places without a part. Mind that
    elsewhere in this project -1 means "unknown"; here it means "absent", a training label that is hidden is a part that
    is left out, and the categories themselves are not modelled. Any number of places will do, not only that of the
    training data; a set may be empty.

    Bounds are in nats per example, of the density of x in its own units: nothing is left out or shifted. The loss is
    the negative bound, averaged over the batch.

    The sizes are small, to train on a CPU in a minute; the authors' networks are about a thousand times larger.

    Arguments:
        shape: of one whole; its values are real numbers.
        labels: for each place the number of categories, the same for all.
        features: the size of each part's latents w_i.
        global_features: the size of z.
        hidden: the width of all networks.
        layers: how often the parts exchange messages in q({w_i} | x, z, {l_i}).
        embedding: the size of a category's embedding there.
        min_deviation: the smallest standard deviation on the generative side, of x, z and w_i, approached smoothly. The
            divergence would explode without it.
        learning_rate: of Adam, with decay rates 0.5 and 0.9. (The paper: 1e-4.)
        halve_every: steps after which the learning rate is halved, again and again down to 1e-6; 0: never.

    Raises:
        ValueError: if a number is out of its range, or the places have different numbers of categories.
    """

    def __init__(
        self,
        shape: Sequence[int],
        labels: Sequence[int],
        features: int = 16,
        global_features: int = 8,
        hidden: int = 128,
        layers: int = 2,
        embedding: int = 16,
        min_deviation: float = 1e-3,
        learning_rate: float = 1e-3,
        halve_every: int = 20_000,
    ) -> None:
        super().__init__()
        if not shape or min(shape) < 1:
            raise ValueError(f"shape must be positive numbers, at least one; got {tuple(shape)}")
        if not labels or min(labels) < 1 or len(set(labels)) > 1:
            raise ValueError(
                "CompVAE needs a label a part, all with the same categories, as the data set sines has; "
                f"got numbers of categories {list(labels)}"
            )
        for name, size in (
            ("features", features),
            ("global_features", global_features),
            ("hidden", hidden),
            ("layers", layers),
            ("embedding", embedding),
        ):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        for name, value in (("min_deviation", min_deviation), ("learning_rate", learning_rate)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if halve_every < 0:
            raise ValueError(f"halve_every must not be negative, got {halve_every}")
        self.shape, self.categories, self.places = tuple(shape), labels[0], len(labels)
        self.features, self.global_features, self.embedding = features, global_features, embedding
        self.min_deviation, self.learning_rate, self.halve_every = min_deviation, learning_rate, halve_every
        size = math.prod(shape)
        # generative side: p(w_i | l_i) as a table, p(z | w), p(x | z, w); a mean and a deviation each
        self.part_prior = nn.Embedding(self.categories, 2 * features)
        self.whole_prior = mlp(features, hidden, hidden, 2 * global_features)
        self.decoder = mlp(features + global_features, hidden, hidden, 2 * size)
        # inference side: q(z | x), and q({w_i} | x, z, {l_i}) by a graph network
        self.encoder = mlp(size, hidden, hidden, 2 * global_features)
        self.context = mlp(size, hidden, hidden)
        self.category = nn.Embedding(self.categories, embedding)
        self.graph = MessagePassing(hidden + global_features + embedding, 3 * features, hidden, layers)

    # the generative side

    def _normal(self, numbers: Tensor) -> Distribution:
        mean, raw = numbers.chunk(2, -1)
        return Normal(mean, self.min_deviation + functional.softplus(raw), validate_args=False)

    def p_parts(self, y: Tensor) -> Distribution:
        """p(w_i | l_i) for categories (\\*batch, parts): independent normals (\\*batch, parts, features)."""
        return self._normal(self.part_prior(y.clamp_min(0)))

    def p_whole(self, w: Tensor) -> Distribution:
        """p(z | w) for the sum of the parts (batch, features): independent normals (batch, global_features)."""
        return self._normal(self.whole_prior(w))

    def p_data(self, z: Tensor, w: Tensor) -> Distribution:
        """p(x | z, w): independent normals, (batch, values)."""
        return self._normal(self.decoder(torch.cat([z, w], -1)))

    # the inference side

    def q_whole(self, x: Tensor) -> Distribution:
        """q(z | x): independent normals, (batch, global_features)."""
        mean, raw = self.encoder(x.flatten(1)).chunk(2, -1)
        return Normal(mean, _positive(raw), validate_args=False)

    def q_parts(self, x: Tensor, z: Tensor, y: Tensor, noise: Tensor) -> PartsPosterior:
        r"""q({w_i} | x, z, {l_i}), given the noise that tells apart the nodes of parts of one category.

        The noise is an auxiliary variable with the same distribution on both sides of the bound, so that the bound with
        this divergence, averaged over the noise, is one.

        Arguments:
            x: (batch, \*shape).
            z: (batch, global_features).
            y: (batch, parts).
            noise: (batch, parts, embedding).
        """
        same = torch.cat([self.context(x.flatten(1)), z], -1).unsqueeze(1).expand(-1, y.shape[1], -1)
        state = torch.cat([same, self.category(y.clamp_min(0)) + noise], -1)
        mean, raw, logits = self.graph(state, y >= 0).chunk(3, -1)
        return PartsPosterior(mean, _positive(raw), logits, y >= 0)

    # bounds

    def noise(self, x: Tensor, y: Tensor) -> Noise:
        """Draws what is random in one pass."""
        shapes = (
            (len(x), self.global_features),
            (*y.shape, self.embedding),
            (*y.shape, self.features),
        )
        return Noise(*(torch.randn(shape, dtype=x.dtype, device=x.device) for shape in shapes))

    def _pass(self, x: Tensor, y: Tensor, noise: Noise) -> _Pass:
        q_z = self.q_whole(x)
        z = q_z.mean + q_z.stddev * noise.whole
        q_w, p_w = self.q_parts(x, z, y, noise.nodes), self.p_parts(y)
        parts = q_w.transform(noise.parts)
        w = parts.sum(-2)
        reconstruction = self.p_data(z, w).log_prob(x.flatten(1)).sum(-1)
        whole = (q_z.log_prob(z) - self.p_whole(w).log_prob(z)).sum(-1)
        log_p = p_w.log_prob(parts).where((y >= 0).unsqueeze(-1), 0).sum((-2, -1))
        sampled = q_w.log_prob_of_noise(noise.parts) - log_p
        return _Pass(reconstruction, whole, q_w.divergence(p_w.mean, p_w.stddev), sampled)

    def elbo(self, x: Tensor, y: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        r"""A one-sample estimate of the lower bound of log p(x | set of parts), (batch,), in nats.

        Arguments:
            x: (batch, \*shape).
            y: the sets, (batch, parts); without them there is no bound.
            noise: what is random; None: drawn.

        Raises:
            ValueError: if y is missing, of another shape or type, or holds no category.
        """
        y = self._sets(y, len(x))
        return self._pass(x, y, self.noise(x, y) if noise is None else noise).elbo

    def iwae(self, x: Tensor, y: Tensor | None = None, samples: int = 100) -> Tensor:
        r"""The importance-weighted bound of log p(x | set of parts) with so many samples, (batch,), in nats.

        Raises:
            ValueError: as for :meth:`elbo`, or if samples is below 1.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        y = self._sets(y, len(x))
        log_w = []
        for _ in range(samples):
            found = self._pass(x, y, self.noise(x, y))
            log_w.append(found.reconstruction - found.whole - found.sampled_parts)
        return torch.stack(log_w).logsumexp(0) - math.log(samples)

    def _sets(self, y: Tensor | None, count: int) -> Tensor:
        """Checks sets of parts, (count, parts) or (parts,) for the same set every time; returns (count, parts)."""
        if y is None:
            raise ValueError("CompVAE models a whole given its parts: y, the categories of the parts, is needed")
        if y.is_floating_point() or y.dtype == torch.bool or y.ndim not in (1, 2) or (y.ndim == 2 and len(y) != count):
            raise ValueError(f"y must be long ({count}, parts) or (parts,), got {y.dtype} {tuple(y.shape)}")
        if y.numel() and (int(y.min()) < -1 or int(y.max()) >= self.categories):
            raise ValueError(f"y must hold categories 0..{self.categories - 1}, or -1 for no part")
        return y.long().expand(count, y.shape[-1])

    # training

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The negative bound of a batch ``(x, y)``."""
        if isinstance(batch, Tensor):
            raise ValueError("CompVAE needs batches (x, y), with the sets of parts in y")
        x, y = batch
        y = self._sets(y, len(x))
        found = self._pass(x, y, self.noise(x, y))
        values = {
            "elbo": found.elbo.mean(),
            "reconstruction": found.reconstruction.mean(),
            "divergence_parts": found.parts.mean(),
            "divergence_whole": found.whole.mean(),
        }
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x))
        return -values["elbo"]

    def configure_optimizers(self) -> Any:
        """Adam, its learning rate halved every so many steps."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate, betas=(0.5, 0.9))
        if not self.halve_every:
            return optimizer
        lowest = min(1.0, 1e-6 / self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: max(lowest, 0.5 ** (step // self.halve_every))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # use

    @torch.no_grad()
    def sample(self, count: int, y: Tensor | None = None) -> Tensor:
        r"""Draws (count, \*shape): parts given their categories, z given their sum, then the mean of p(x | z, w).

        Arguments:
            count: how many.
            y: sets of parts, long (count, parts), or (parts,) for the same set every time; -1 for no part. None: sets
                with a uniform number of parts, up to that of the training data, and uniform categories.

        Raises:
            ValueError: if the count is below 1 or y is not as above.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if y is None:
            sizes = torch.randint(1, self.places + 1, (count, 1), device=self.device)
            y = torch.randint(self.categories, (count, self.places), device=self.device)
            y = y.where(torch.arange(self.places, device=self.device) < sizes, -1)
        y = self._sets(y.to(self.device), count)
        parts = self.p_parts(y).sample().where((y >= 0).unsqueeze(-1), 0)
        w = parts.sum(-2)
        z = self.p_whole(w).sample()
        return self.p_data(z, w).mean.reshape(count, *self.shape)


def _positive(raw: Tensor) -> Tensor:
    """A deviation of the posterior; bounded smoothly, so that neither a tiny nor a huge one ends in NaN."""
    return torch.exp(7 * torch.tanh(raw / 7))
