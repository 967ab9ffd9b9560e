r"""The compositional variational autoencoder: wholes made of sets of parts.

    p(x, z, {w_i} | {l_i}) = p(x | z, w) p(z | w) prod_i p(w_i | l_i),    w = sum_i w_i            (equation 1)
    q(z, {w_i} | x, {l_i}) = q(z | x) q({w_i} | x, z, {l_i})

Part i is told as l_i, a category and perhaps numbers, and has latents w_i; the whole depends on the parts through their
sum alone (or another aggregation), so that neither their order nor their number matters to the networks; z holds what
concerns the whole.

    log p(x | {l_i}) >= E_q [ log p(x | z, w) + log p(z | w) - log q(z | x)
                              - KL(q({w_i} | x, z, {l_i}) || prod_i p(w_i | l_i)) ]

which is the negative of equation 4. Given z the divergence of the parts is in closed form; that of z is not, because w
depends on it, and is estimated by the same sample (algorithm 1).

References:
    Berger and Sebag, Compositional Variational Auto-Encoder, 2020
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

from tn_compvae.aggregations import Sum
from tn_compvae.networks import PartsNetwork
from tn_compvae.posterior import PartsPosterior
from tn_compvae.sets import Parts
from tn_core.components import Component
from tn_core.training import VALIDATION

__all__ = ["CompVAE", "Composition", "Noise"]


class Noise(NamedTuple):
    r"""All that is random in one pass, standard normal.

    Attributes:
        whole: of z, (batch, global_features).
        nodes: of the nodes of the graph network, (batch, places, embedding).
        parts: of the w_i, (batch, places, features).
    """

    whole: Tensor
    nodes: Tensor
    parts: Tensor


class Composition(NamedTuple):
    r"""Wholes as the model has them: parts that can be added, removed and exchanged.

    Attributes:
        parts: what they are, (batch, places).
        latents: the w_i, (batch, places, features).
        whole: what is particular to each whole, (batch, global_features): z, standardised by p(z | w). It is kept while
            parts come and go, as a day keeps its weather, and z follows the parts that are there.
    """

    parts: Parts
    latents: Tensor
    whole: Tensor


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

    Sets of parts, y, are written as the labels of the data: part by part its category and then its numbers, if parts
    have any; see :class:`tn_compvae.sets.Schema`. Long (batch, places), -1 for no part, or float (batch, places * (1 +
    numbers)), NaN for no part. Mind that elsewhere in this project -1 means "unknown"; here it means "absent", a
    training label that is hidden is a part that is left out, and the sets themselves are not modelled. Any number of
    places will do, not only that of the training data; a set may be empty, and (labels,) is one set for all.

    Bounds are in nats per example, of the density of x in its own units: nothing is left out or shifted. The loss is
    the negative bound, averaged over the batch.

    The default networks are small, to train on a CPU in minutes; the authors' are a thousand times larger.

    Arguments:
        network: all that is learned, and for which data; see :class:`tn_compvae.networks.PartsNetwork`.
        aggregation: of the parts' latents, whatever their order and number; None: their sum.
        min_deviation: the smallest standard deviation on the generative side, of x and w_i, approached smoothly. The
            divergence would explode without it. (The paper's code: 0.001 for sines, 0.005 for sites.)
        learning_rate: of Adam, with decay rates 0.5 and 0.9. (The paper: 1e-4.)
        halve_every: steps after which the learning rate is halved, again and again down to 1e-6; 0: never.

    Raises:
        ValueError: if a number is out of its range.
    """

    needs_labels = True

    def __init__(
        self,
        network: Annotated[PartsNetwork, Component("networks", "PartsMLP")],
        aggregation: Annotated[nn.Module | None, Component("aggregations", "Sum")] = None,
        min_deviation: float = 1e-3,
        learning_rate: float = 1e-3,
        halve_every: int = 20_000,
    ) -> None:
        super().__init__()
        for name, value in (("min_deviation", min_deviation), ("learning_rate", learning_rate)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if halve_every < 0:
            raise ValueError(f"halve_every must not be negative, got {halve_every}")
        self.network, self.schema = network, network.schema
        self.aggregation = Sum() if aggregation is None else aggregation
        self.min_deviation, self.learning_rate, self.halve_every = min_deviation, learning_rate, halve_every

    # the generative side

    def _normal(self, mean: Tensor, raw: Tensor) -> Normal:
        return Normal(mean, self.min_deviation + functional.softplus(raw), validate_args=False)

    def p_parts(self, parts: Parts) -> Normal:
        r"""p(w_i | l_i): independent normals (batch, places, features), of no meaning in places without a part."""
        described = self._described(parts)
        return self._normal(self.network.part_mean(described), self.network.part_deviation(described))

    def p_whole(self, w: Tensor) -> Normal:
        """p(z | w) for the aggregate of the parts (batch, features): independent normals (batch, global_features).

        The scale of z is free: deviations between 1/e and e lose nothing, and z does not drift to scales where a whole
        unlike others has a divergence of millions.
        """
        mean, raw = self.network.whole_prior(w).chunk(2, -1)
        return Normal(mean, torch.exp(torch.tanh(raw)), validate_args=False)

    def p_data(self, z: Tensor, w: Tensor) -> Normal:
        r"""p(x | z, w): independent normals, (batch, \*shape)."""
        return self._normal(*self.network.decoder(torch.cat([z, w], -1)).unbind(1))

    def _described(self, parts: Parts) -> Tensor:
        return self.schema.describe(parts, self.network.dtype)

    # the inference side

    def q_whole(self, x: Tensor) -> Normal:
        """q(z | x): independent normals, (batch, global_features)."""
        mean, raw = self.network.encoder(x).chunk(2, -1)
        # bounded smoothly, so that neither a tiny nor a huge deviation ends in NaN
        return Normal(mean, torch.exp(7 * torch.tanh(raw / 7)), validate_args=False)

    def q_parts(self, x: Tensor, z: Tensor, parts: Parts, noise: Tensor, p_w: Normal) -> PartsPosterior:
        r"""q({w_i} | x, z, {l_i}), given the noise that tells apart the nodes of equal parts.

        Its means and deviations are relative to the prior's (Vahdat and Kautz, NVAE, 2020, section 3.2): latents whose
        prior becomes narrow for a category become so in the posterior, and categories come to use latents of their own.
        No part's deviation is more than twice the prior's.

        The noise is an auxiliary variable with the same distribution on both sides of the bound, so that the bound with
        this divergence, averaged over the noise, is one.

        Arguments:
            x: (batch, \*shape).
            z: (batch, global_features).
            parts: (batch, places).
            noise: (batch, places, embedding).
            p_w: the prior of the parts.
        """
        numbers = self.network.parts(x, z, self._described(parts), parts.present, noise)
        shift, raw, logits = numbers.chunk(3, -1)
        mean, deviation = p_w.mean + p_w.stddev * shift, p_w.stddev * 2 * torch.sigmoid(raw)
        return PartsPosterior(mean, deviation, logits, parts.present)

    # bounds

    def noise(self, x: Tensor, places: int) -> Noise:
        """Draws what is random in one pass."""
        network = self.network
        sizes = (network.global_features,), (places, network.embedding), (places, network.features)
        return Noise(*(torch.randn((len(x), *size), dtype=x.dtype, device=x.device) for size in sizes))

    def _pass(self, x: Tensor, parts: Parts, noise: Noise | None = None) -> _Pass:
        noise = self.noise(x, parts.present.shape[-1]) if noise is None else noise
        q_z = self.q_whole(x)
        z = q_z.mean + q_z.stddev * noise.whole
        p_w = self.p_parts(parts)
        q_w = self.q_parts(x, z, parts, noise.nodes, p_w)
        latents = q_w.transform(noise.parts)
        w = self.aggregation(latents, parts.present)
        reconstruction = self.p_data(z, w).log_prob(x).flatten(1).sum(-1)
        whole = (q_z.log_prob(z) - self.p_whole(w).log_prob(z)).sum(-1)
        log_p = p_w.log_prob(latents).where(parts.present.unsqueeze(-1), 0).sum((-2, -1))
        sampled = q_w.log_prob_of_noise(noise.parts) - log_p
        return _Pass(reconstruction, whole, q_w.divergence(p_w.mean, p_w.stddev), sampled)

    def elbo(self, x: Tensor, y: Tensor | None = None, noise: Noise | None = None) -> Tensor:
        r"""A one-sample estimate of the lower bound of log p(x | set of parts), (batch,), in nats.

        Arguments:
            x: (batch, \*shape).
            y: the sets, (batch, labels) or (labels,); without them there is no bound.
            noise: what is random; None: drawn.

        Raises:
            ValueError: if y is missing, of another shape or type, or holds something that is no part.
        """
        return self._pass(x, self.schema.read(y, len(x)), noise).elbo

    def iwae(self, x: Tensor, y: Tensor | None = None, samples: int = 100) -> Tensor:
        r"""The importance-weighted bound of log p(x | set of parts) with so many samples, (batch,), in nats.

        Raises:
            ValueError: as for :meth:`elbo`, or if samples is below 1.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        parts, log_w = self.schema.read(y, len(x)), []
        for _ in range(samples):
            found = self._pass(x, parts)
            log_w.append(found.reconstruction - found.whole - found.sampled_parts)
        return torch.stack(log_w).logsumexp(0) - math.log(samples)

    # training

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The negative bound of a batch ``(x, y)``; logs its terms, in nats."""
        if isinstance(batch, Tensor):
            raise ValueError("CompVAE needs batches (x, y), with the sets of parts in y")
        x, y = batch
        found = self._pass(x, self.schema.read(y, len(x)))
        values = {
            "elbo": found.elbo.mean(),
            "reconstruction": found.reconstruction.mean(),
            "divergence_parts": found.parts.mean(),
            "divergence_whole": found.whole.mean(),
        }
        self.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x))
        return -values["elbo"]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the bound."""
        self.log(VALIDATION, self.elbo(*batch).mean(), on_step=False, on_epoch=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Adam, its learning rate halved every so many steps.

        The deviations of the parts' prior start at a hundredth of the rate and reach it after 10,000 steps. Faster ones
        become narrow before the decoder has learned to use the latents, which are lost (posterior collapse); if they
        stay slow they do not follow the posterior, and what is drawn is not like the data.
        """
        prior = list(self.network.part_deviation.parameters())
        others = [p for p in self.parameters() if all(p is not q for q in prior)]
        groups = [{"params": others}, {"params": prior}]
        optimizer = torch.optim.Adam(groups, lr=self.learning_rate, betas=(0.5, 0.9), fused=True)
        lowest = min(1.0, 1e-6 / self.learning_rate)

        def rate(step: int) -> float:
            return max(lowest, 0.5 ** (step // self.halve_every)) if self.halve_every else 1.0

        def rate_of_prior(step: int) -> float:
            return rate(step) * min(1.0, 0.01 + step / 10_000)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [rate, rate_of_prior])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # use

    @torch.no_grad()
    def compose(self, y: Tensor, count: int | None = None) -> Composition:
        """Draws wholes of sets of parts.

        Arguments:
            y: the sets, (batch, labels), or one set (labels,).
            count: how many wholes of one set; None: as many as there are sets.

        Raises:
            ValueError: if y is no sets of parts, or there are not as many as the count.
        """
        parts = self.schema.read(y.to(self.device), count)
        whole = torch.randn(len(parts.category), self.network.global_features, device=self.device)
        return Composition(parts, self.p_parts(parts).sample(), whole.to(self.network.dtype))

    @torch.no_grad()
    def extract(self, x: Tensor, y: Tensor) -> Composition:
        r"""Takes observed wholes apart: the posterior's mean of their parts, given noise that tells equal ones apart.

        Arguments:
            x: (batch, \*shape).
            y: their parts, (batch, labels) or (labels,).

        Raises:
            ValueError: if y is no sets of parts.
        """
        parts = self.schema.read(y, len(x))
        z = self.q_whole(x).mean
        nodes = self.noise(x, parts.present.shape[-1]).nodes
        latents = self.q_parts(x, z, parts, nodes, self.p_parts(parts)).mean
        p_z = self.p_whole(self.aggregation(latents, parts.present))
        return Composition(parts, latents, (z - p_z.mean) / p_z.stddev)

    def add(self, composition: Composition, parts: "Tensor | Composition") -> Composition:
        """Adds parts; those that are there keep their latents, and the whole what is particular to it.

        Arguments:
            composition: (batch, places).
            parts: the sets to add, whose latents are drawn; or another composition, whose latents are taken along.

        Raises:
            ValueError: if there are not as many sets.
        """
        count = len(composition.latents)
        more = parts if isinstance(parts, Composition) else self.compose(parts, count)
        if len(more.latents) != count:
            raise ValueError(f"there are {count} wholes, parts to add were given for {len(more.latents)}")
        both = zip(composition.parts, more.parts, strict=True)
        return Composition(
            Parts(*(torch.cat(two, 1) for two in both)),
            torch.cat([composition.latents, more.latents], 1),
            composition.whole,
        )

    def remove(self, composition: Composition, places: Sequence[int]) -> Composition:
        """Removes the parts in these places, counted from 0; the others stay as they are.

        Raises:
            ValueError: if there is no such place.
        """
        count = composition.latents.shape[1]
        if not all(0 <= place < count for place in places):
            raise ValueError(f"there are places 0..{count - 1}, got {list(places)}")
        kept = [place for place in range(count) if place not in set(places)]
        parts = Parts(*(value[:, kept] for value in composition.parts))
        return Composition(parts, composition.latents[:, kept], composition.whole)

    def recompose(self, composition: Composition, places: Sequence[int], parts: "Tensor | Composition") -> Composition:
        """Exchanges the parts in these places for others, see :meth:`add`; those come last."""
        return self.add(self.remove(composition, places), parts)

    @torch.no_grad()
    def decode(self, composition: Composition) -> Tensor:
        r"""The mean of p(x | z, w), (batch, \*shape)."""
        return self._data(composition).mean

    def _data(self, composition: Composition) -> Normal:
        w = self.aggregation(composition.latents, composition.parts.present)
        p_z = self.p_whole(w)
        return self.p_data(p_z.mean + p_z.stddev * composition.whole, w)

    @torch.no_grad()
    def sample(self, count: int, y: Any = None, noise: bool = False) -> Tensor:
        r"""Draws wholes, (count, \*shape).

        Arguments:
            count: how many.
            y: sets of parts, (count, labels), or (labels,) for the same set every time; or for each label what it may
                be, see :meth:`tn_compvae.sets.Schema.choose`. None: sets with a uniform number of parts, up to that of
                the training data, and uniform categories and numbers.
            noise: draw from p(x | z, w) too, instead of taking its mean.

        Raises:
            ValueError: if the count is below 1 or y is not as above.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if y is None:
            y = self.schema.draw(count, self.network.places)
        elif not isinstance(y, Tensor):
            y = self.schema.choose(y, count)
        data = self._data(self.compose(y, count))
        return data.sample() if noise else data.mean

    def quantiles(self, y: Tensor, levels: Sequence[float], count: int = 1000) -> Tensor:
        r"""Quantiles of each value of the wholes of one set of parts, (levels, \*shape), over so many draws.

        Raises:
            ValueError: if a level is not between 0 and 1, or y is not one set of parts.
        """
        if not levels or not all(0 <= level <= 1 for level in levels):
            raise ValueError(f"levels must be numbers from 0 to 1, got {list(levels)}")
        drawn = self.sample(count, y, noise=True)
        return drawn.quantile(drawn.new_tensor(levels), 0)
