r"""The variational autoencoder with any prior, and with labels of which any may be unknown.

    log p(x, y_ob) >= E_q(z|x) [ log p(x | z) + log p(z, y_ob) ] + H(q(z | x))

which is VAE-TTLP equation 6 and, the same, TRIP equation 14. The prior's joint log p(z, y_ob) is exact whatever part of
the labels is observed.

Where few labels are known the bound hardly feels them. The label term gives them a weight of their own, and takes for
known what the prior is sure of at the posterior's mean, to be told from a sample of it.

References:
    Kingma and Welling, Auto-Encoding Variational Bayes, 2013, https://arxiv.org/abs/1312.6114
    Burda et al., Importance Weighted Autoencoders, 2015, https://arxiv.org/abs/1509.00519
    Lee, Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method, 2013
    Sohn et al., FixMatch, 2020, https://arxiv.org/abs/2001.07685 (the threshold)
    Kuznetsov et al., Subset-Conditioned Generation (VAE-TTLP), 2018, section 3
    Kuznetsov et al., A Prior of a Googol Gaussians (TRIP), 2019, sections 3.1 and 4
"""

import copy
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from zuko.lazy import LazyDistribution

from tn_core.components import Component
from tn_core.protocols import all_unknown
from tn_priors.fitting import fit_by_gradient
from tn_priors.labels import Continuous
from tn_vae.autoencoder import (
    Likelihood,
    VariationalAutoencoder,
    check_at_least_one,
    check_choice,
    check_not_negative,
    divergence,
    estimated_divergence,
    same_in_all_processes,
)
from tn_vae.labels import mean_where_known

__all__ = ["VAE"]

FINAL_RATE = 0.03  # learning rate at the start of the final steps; it falls to zero


class VAE(VariationalAutoencoder):
    """Variational autoencoder with any prior.

    The loss is the negative bound, averaged over the batch, minus the weighted label term.

    Arguments:
        network: a pair with an ``encoder`` of twice as many outputs as there are latents, and a ``decoder``.
        prior: a module whose call returns a distribution over latents; if it has labels, those of the data.
        likelihood: "bernoulli" (cross entropy; grey values count as probabilities), "gaussian" (fixed deviation, means
            in (0, 1)) or "gaussian_real" (any means).
        deviation: the standard deviation of the Gaussian likelihoods.
        fit_prior: "jointly" with the networks, or "afterwards": the networks are trained with a standard normal prior,
            then the prior is fitted to the latents ("pretrained VAE" of VAE-TTLP).
        reinitialize: whether the prior starts again from the latents, after the first epoch and then every
            ``reinitialize_every`` epochs: "never"; "random" as TRIP does it, one-dimensional mixtures and random cores;
            "fit" by the prior's method ``fit``.
        reinitialize_every: epochs (TRIP: 5).
        final_steps: steps of the prior alone after the last epoch, on the latents of the training data and the labels
            that it is sure of, as it lags behind the encoder. A prior with a method ``fit`` takes them from a fit too,
            and the better of the two is kept.
        label_weight: the weight of the labelled items' mean log p(y_ob | z), in addition to its part in the bound; 0 is
            the papers' bound.
        confidence: unknown labels with a value of at least this probability given z count as known in the label term
            (pseudo-labels); 1: none do.
        warmup_steps: steps over which the weight of the divergence from the prior grows from 0.1 to 1.
        learning_rate: of the networks (Adam).
        prior_learning_rate: of the prior.

    Raises:
        ValueError: if a number is out of its range or the parts do not fit.
    """

    seen: Tensor
    exchangeable_prior = True

    def __init__(
        self,
        network: Annotated[nn.Module, Component("networks", "SmallConv")],
        prior: Annotated[LazyDistribution, Component("priors", "TRIP")],
        likelihood: Likelihood = "bernoulli",
        deviation: float = 0.1,
        fit_prior: Literal["jointly", "afterwards"] = "jointly",
        reinitialize: Literal["never", "random", "fit"] = "never",
        reinitialize_every: int = 5,
        final_steps: int = 0,
        label_weight: float = 3.0,
        confidence: float = 0.9,
        warmup_steps: int = 500,
        learning_rate: float = 2e-3,
        prior_learning_rate: float = 1e-2,
    ) -> None:
        super().__init__(network, prior, likelihood, deviation, warmup_steps, learning_rate, prior_learning_rate)
        check_choice(
            fit_prior=(fit_prior, ("jointly", "afterwards")), reinitialize=(reinitialize, ("never", "random", "fit"))
        )
        for option, method, needed in (
            (f"fit_prior={fit_prior!r}", "fit", fit_prior == "afterwards"),
            (f"reinitialize={reinitialize!r}", "reinitialize", reinitialize == "random"),
            (f"reinitialize={reinitialize!r}", "fit", reinitialize == "fit"),
        ):
            if needed and not hasattr(prior, method):
                raise ValueError(f"{option} needs a prior with a method {method}; {type(prior).__name__} has none")
        check_at_least_one(reinitialize_every=reinitialize_every)
        check_not_negative(label_weight=label_weight, final_steps=final_steps)
        if not 0 <= confidence <= 1:
            raise ValueError(f"confidence must be from 0 to 1, got {confidence}")
        self.fit_prior, self.label_weight, self.confidence = fit_prior, label_weight, confidence
        self.reinitialize, self.reinitialize_every = reinitialize, reinitialize_every
        self.final_steps = final_steps
        # which labels were ever known: of others the prior cannot be sure
        self.register_buffer("seen", torch.zeros(len(getattr(prior, "labels", ())), dtype=torch.bool))

    def log_joint(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(z, y_ob) in nats; without labels, or with a prior that has none, log p(z)."""
        if y is None or not self.has_labels:
            return self.prior().log_prob(z)
        return self.prior.log_prob_joint(z, y)

    def _log_joint(self, z: Tensor, y: Tensor | None) -> Tensor | None:
        """log p(z, y_ob); None if there are no labels."""
        return None if y is None or not self.has_labels else self.log_joint(z, y)

    def _divergence(self, q: Distribution, z: Tensor, log_joint: Tensor | None) -> Tensor:
        """Of q(z | x) from p(z, y_ob), or from p(z) if there are no labels, (batch,)."""
        return divergence(q, self.prior(), z) if log_joint is None else estimated_divergence(q, log_joint, z)

    @property
    def has_labels(self) -> bool:
        """Whether the prior is one over labels too; strangers' priors need not know the word."""
        return bool(getattr(self.prior, "labels", ()))

    # bounds

    def elbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A one-sample estimate of the lower bound of log p(x, y_ob), (batch,), in nats."""
        q = self.posterior(x)
        z = q.rsample()
        return self.log_likelihood(x, z) - self._divergence(q, z, self._log_joint(z, y))

    def log_weights(self, x: Tensor, y: Tensor | None, samples: int) -> Tensor:
        """log p(x | z) p(z, y_ob) / q(z | x) of posterior samples, (samples, batch)."""
        q = self.posterior(x)
        z = q.rsample((samples,))
        return self.log_likelihood(x, z) + self.log_joint(z, y) - q.log_prob(z)

    # training

    def objective(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of a batch, and what to log."""
        q = self.posterior(x)
        z = q.rsample()
        reconstruction = self.log_likelihood(x, z).mean()
        found: dict[str, Tensor] = {}
        if not self.trains_prior:
            away = divergence(q, Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 1), z).mean()
        elif y is None or not self.has_labels or not self.label_weight:
            away = self._divergence(q, z, self._log_joint(z, y)).mean()
        else:
            self.seen |= self._known(y).any(0)
            guessed = self._with_sure_labels(q.mean, y) if self.confidence < 1 else y
            log_p, found["log_p_labels"], found["log_p_guessed"] = self._log_joint_and_labels(z, y, guessed)
            away = estimated_divergence(q, log_p, z).mean()
        loss = self.warmth * away - reconstruction
        if found:
            loss = loss - self.label_weight * (found["log_p_labels"] + found["log_p_guessed"])
        return loss, {"elbo": reconstruction - away, "reconstruction": reconstruction, "divergence": away, **found}

    def _log_joint_and_labels(self, z: Tensor, y: Tensor, guessed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(z, y_ob), (batch,), and the two parts of the label term, by one pass through the prior.

        They are the means of log p(y_ob | z) over the labelled items and of log p(guessed labels | z, y_ob) over all.
        """
        known = self._known(y)
        labelled = known.any(1).nonzero().flatten()  # elsewhere log p(y_ob | z) is zero
        sure = (self._known(guessed) != known).any(1).nonzero().flatten()
        asked = torch.cat([y, all_unknown(y[labelled]), guessed[sure]])
        every = self.prior.log_prob_joint(torch.cat([z, z[labelled], z[sure]]), asked)
        log_p, log_p_alone, log_p_guessed = every.split([len(z), len(labelled), len(sure)])
        label_term = mean_where_known(log_p[labelled] - log_p_alone, known)
        return log_p, label_term, (log_p_guessed - log_p[sure]).sum() / len(y)

    def _known(self, y: Tensor) -> Tensor:
        """Which labels are known, bool (batch, labels)."""
        known = y >= 0
        for j, label in enumerate(self.prior.labels):
            if isinstance(label, Continuous):
                known[:, j] = ~y[:, j].isnan()
        return known

    @torch.no_grad()
    def _with_sure_labels(self, z: Tensor, y: Tensor) -> Tensor:
        """The labels, with those unknown categorical ones of which p(y_j | z, other known labels) is sure."""
        unknown = ~self._known(y)
        rows = unknown.any(1).nonzero().flatten()
        labels = [j for j, label in enumerate(self.prior.labels) if not isinstance(label, Continuous)]
        if not len(rows) or not labels:
            return y
        posteriors = self.prior.label_posteriors(z[rows], y[rows])
        probability, best = (
            torch.stack(found, 1) for found in zip(*(posteriors[j].max(-1) for j in labels), strict=True)
        )
        sure = unknown[rows][:, labels] & (probability >= self.confidence) & self.seen[labels]
        found = y.clone()
        found[rows[:, None], labels] = torch.where(sure, best.to(y), y[rows][:, labels])
        return found

    @property
    def trains_prior(self) -> bool:
        """Whether the prior is trained together with the networks."""
        return self.fit_prior == "jointly"

    def on_train_start(self) -> None:
        """Says before the first step if there are too few items for the prior to be fitted to."""
        super().on_train_start()
        fits = self.fit_prior == "afterwards" or self.reinitialize == "fit" or self.final_steps
        if fits:
            self.check_items_to_fit()

    def on_train_epoch_end(self) -> None:
        """Fits the prior to the latents of the training data where that is asked for.

        Within the epoch, so that its checkpoint holds the fitted prior.
        """
        last = self.trainer.current_epoch + 1 == self.trainer.max_epochs
        if not self.trains_prior:
            if last:
                self._start_prior_again("fit")
        elif self.reinitialize != "never" and not last and self.trainer.current_epoch % self.reinitialize_every == 0:
            self._start_prior_again(self.reinitialize)
            optimiser = self.trainer.optimizers[0]
            for parameter in self.prior.parameters():  # what it remembers is of another prior
                optimiser.state.pop(parameter, None)
        if last and self.trains_prior and self.final_steps:
            self._finish_prior()

    def _latents_and_labels(self) -> tuple[Tensor, Tensor | None]:
        """Of the training data, for the prior alone to learn from; no labels if it has none."""
        z, y = self.latents_of(self.trainer.train_dataloader)
        return z, y if self.has_labels else None

    def _start_prior_again(self, how: str) -> None:
        z, y = self._latents_and_labels()
        if how == "fit":
            self.prior.fit(z, y)
        else:
            self.prior.reinitialize(z)
        same_in_all_processes(self.prior)

    def _finish_prior(self) -> None:
        """Gradient steps on the prior's part of the bound and the label term, from where it is and from a fit.

        What has the better bound is kept: steps may be caught where they start, a fit far from what training found.
        """
        learned = [p for p in self.prior.parameters() if p.requires_grad]
        if not learned:
            return
        z, known = self._latents_and_labels()
        pieces = z.split(1000)
        labels: Any = [None] * len(pieces) if known is None else known.split(1000)
        parts = list(zip(pieces, labels, strict=True))
        told = known
        if known is not None and self.confidence < 1:  # labels are guessed once, before
            told = torch.cat([self._with_sure_labels(*part) for part in parts])

        def objective(z: Tensor, y: Tensor | None) -> Tensor:
            if y is None or not self.label_weight:
                return self.log_joint(z, y).mean()
            log_p, label_term, _ = self._log_joint_and_labels(z, y, y)
            return log_p.mean() + self.label_weight * label_term

        @torch.no_grad()
        def bound() -> float:  # its part of the prior; of known labels only: guessed ones speak for who guessed them
            return sum(float(self.log_joint(*part).sum()) for part in parts)

        fit_by_gradient(objective, learned, z, told, self.final_steps, FINAL_RATE)
        if hasattr(self.prior, "fit"):
            reached, kept = bound(), copy.deepcopy(self.prior.state_dict())
            self.prior.fit(z, told)
            fit_by_gradient(objective, learned, z, told, self.final_steps, FINAL_RATE)
            if not bound() > reached:
                self.prior.load_state_dict(kept)
        same_in_all_processes(self.prior)

    # use

    @torch.no_grad()
    def sample(self, count: int, y: Any = None) -> Tensor:
        """Draws (count, *shape): latents from the prior given what is known of the labels, then the decoder's mean.

        Arguments:
            count: how many.
            y: None; or what the prior takes, for one item (labels,) or for each (count, labels), -1 unknown.
        """
        if y is None:
            z = self.prior().sample((count,))
        elif not self.has_labels:
            raise ValueError(f"the prior {type(self.prior).__name__} has no labels to condition on")
        else:
            conditional = self.prior(y)
            z = conditional.sample((count,)) if not conditional.batch_shape else conditional.sample()
        return self.decode(z)

    @torch.no_grad()
    def impute(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """For each label the probabilities of its values (batch, values), given x and the other known labels.

        p(y | z) at the posterior's mean (VAE-TTLP section 6.5). Of a continuous label mean and standard deviation,
        (batch, 2).
        """
        if not self.has_labels:
            raise ValueError(f"the prior {type(self.prior).__name__} has no labels to impute")
        found: list[Tensor] = self.prior.label_posteriors(self.encode(x), y)
        for j, label in enumerate(self.prior.labels):
            if isinstance(label, Continuous):
                means, deviations = self.prior.label_components(j)
                mean = found[j] @ means
                spread = found[j] @ (means**2 + deviations**2) - mean**2
                found[j] = torch.stack([mean, spread.clamp_min(0).sqrt()], -1)
        return found

    @torch.no_grad()
    def complete(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The most probable values of all unknown labels together, given x and the known labels.

        At the posterior's mean. Labels that depend on each other may have other values each for itself (``impute``).

        Returns:
            The labels, long (batch, labels), and the log probability of the completion, (batch,).
        """
        if not hasattr(self.prior, "complete"):
            raise ValueError(f"the prior {type(self.prior).__name__} does not complete labels")
        found: tuple[Tensor, Tensor] = self.prior.complete(self.encode(x), y)
        return found
